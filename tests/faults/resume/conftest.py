"""Lets the tests of this folder import the toy task of the loop."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "training"))
