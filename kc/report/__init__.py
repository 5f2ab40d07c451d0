"""What a run found, for people: records, tables, figures, one HTML page. Built from `results.json` only."""
