"""Benchmarks, with the process settings of a command: `python -m benchmarks.NAME`."""

from kc.process import configure

configure()
