"""The main job: `python experiments/continual.py --tasks 10` (the same program as `kc run`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation too

from kc.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
