"""Studies of a base and a memory: `python experiments/open_vocabulary.py growth` (`kc study growth`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation too

from kc.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
