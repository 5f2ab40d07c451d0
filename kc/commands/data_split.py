"""`kc data split`: the tasks of a benchmark, shown, and written in the formats of other programs."""
