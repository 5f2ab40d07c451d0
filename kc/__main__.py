"""`python -m kc` is `kc`."""

import sys

from kc.cli import main

sys.exit(main())
