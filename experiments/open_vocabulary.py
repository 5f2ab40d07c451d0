"""Experiments on an open-vocabulary base and a memory: `python experiments/open_vocabulary.py growth`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation too
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads; see kc.cli.execute

from kc.errors import KcError
from kc.studies.config import main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last finished row.", file=sys.stderr)
        sys.exit(130)
