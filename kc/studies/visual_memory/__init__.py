"""Studies of the visual memory (arXiv 2408.08172) and of the questions it leaves open, one short file each."""
