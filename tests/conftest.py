"""For every test: processes that it starts find the package under test; no signal outlives it."""

import os
import signal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if find_spec("jaxtyping") and find_spec("beartype"):
    # In this process and not in those that tests start, which see the package as its users do.
    os.environ["TCFORMER_CHECK_SHAPES"] = "1"
    import_module("tcformer.shapes")
    del os.environ["TCFORMER_CHECK_SHAPES"]

from tcformer.runtime import signals

SOURCE = str(Path(__file__).parents[1] / "src")

# Absolute, because tests start processes in other folders; first, because another version may be
# installed.
_inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
os.environ["PYTHONPATH"] = os.pathsep.join([SOURCE, *_inherited])


# The shell that starts `make test &` from a script lets it ignore Ctrl-C, and so would all that the
# tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_BEFORE = {name: signal.getsignal(getattr(signal, name)) for name in signals.STOP_SIGNALS}


def _give_back_signals():
    for name, handler in _BEFORE.items():
        signal.signal(getattr(signal, name), handler)
    signals.interrupt.clear()
    signals._first_sigint = 0.0


def pytest_collection_modifyitems(items):
    """The longest tests first: one that starts last keeps one process busy and the others idle."""
    for item in items:
        # The time of the suite is a bound on hangs: on a slow machine the longest take minutes.
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))

    def seconds(item):
        marker = item.get_closest_marker("slow")
        return marker.kwargs.get("seconds", 0) if marker else 0

    items.sort(key=lambda item: -seconds(item))  # stable: the others stay in their order


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were():
    """A verb run inside the test process takes over the stop signals: give them back.

    Before a test as well, for a fixture of a whole module may have run one.
    """
    _give_back_signals()
    yield
    _give_back_signals()


@pytest.fixture
def save_picture():
    """A function that writes a picture of noise and returns its path."""
    rng = np.random.default_rng(0)

    def save(path, size=(40, 50), **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(path, **options)
        return path

    return save
