"""`python -m tcformer` is the command `tcformer`."""

import sys

from tcformer.cli import main

# Workers started with "spawn" import this module under another name and must not run it.
if __name__ == "__main__":
    sys.exit(main())
