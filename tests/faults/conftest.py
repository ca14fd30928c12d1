"""Lets tests import what lies beside them and the loop's toy task; a zygote for all killed runs."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDERS = sorted(path for path in HERE.iterdir() if path.is_dir() and path.name[0] != "_")
sys.path += [str(path) for path in (*FOLDERS, HERE.parent / "training")]


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    """Forks the command `tcformer`; shared, for its imports take seconds."""
    from killed_runs import build_shim
    from zygote import Zygote

    folder = tmp_path_factory.mktemp("zygote")
    with Zygote(folder, build_shim(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """The images of all killed runs."""
    from killed_runs import make_images

    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def references(zygote, images, tmp_path_factory):
    """The same runs, which nobody kills."""
    from reference import References

    return References(tmp_path_factory.mktemp("references"), zygote, images)
