"""Lets the tests of this folder import what lies beside them, and the toy task of the loop."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[1] / "training")]
