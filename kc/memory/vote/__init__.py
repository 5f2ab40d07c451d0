"""From neighbours to class scores: votes, fusion, evaluation and pruning."""
