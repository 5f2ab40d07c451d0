"""Experiments on an open-vocabulary base and a memory: `python experiments/open_vocabulary.py growth`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation too

from kc.cli import program

if __name__ == "__main__":
    sys.exit(
        program("kc.studies.config:main", stopped="stopped; the same command goes on after the last finished row.")
    )
