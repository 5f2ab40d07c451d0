"""Nearest rows by cosine: exact, by an index, or on a GPU."""
