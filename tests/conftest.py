"""For every test: processes that it starts find the package under test; no signal outlives it."""

import os
import signal
from pathlib import Path

import pytest

from tcformer.training import interrupt

SOURCE = str(Path(__file__).parents[1] / "src")

# Absolute, because tests start processes in other folders; first, because another version may be
# installed.
_inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
os.environ["PYTHONPATH"] = os.pathsep.join([SOURCE, *_inherited])


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were():
    """A verb run inside the test process takes over the stop signals: give them back."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in interrupt.STOP_SIGNALS}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)
    interrupt.interrupt.clear()
    interrupt._first_sigint = 0.0
