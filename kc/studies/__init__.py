"""Experiments that answer one question each: a table, a figure and a record, from features that are cached."""
