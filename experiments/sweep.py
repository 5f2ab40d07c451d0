"""Fair tuning before the comparison: `python experiments/sweep.py --budget 5` (the same program as `kc sweep`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation too

from kc.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
