"""For every test: processes that a test starts find the package that is tested."""

import os
from pathlib import Path

SOURCE = str(Path(__file__).parents[1] / "src")

# Absolute, because tests start processes in other folders; first, because another version may be
# installed.
_inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
os.environ["PYTHONPATH"] = os.pathsep.join([SOURCE, *_inherited])
