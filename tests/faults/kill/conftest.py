"""A zygote for the tests of this folder, and where they keep their files."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="package")
def zygote(tmp_path_factory):
    """Forks the command `tcformer`; shared, for its imports take seconds."""
    from killed_runs import build_shim
    from zygote import Zygote

    folder = tmp_path_factory.mktemp("zygote")
    with Zygote(folder, build_shim(folder)) as running:
        yield running


@pytest.fixture(scope="package")
def images(tmp_path_factory):
    """The pictures of all runs here."""
    from killed_runs import make_images

    return make_images(tmp_path_factory.mktemp("images"))
