"""Lets tests import what lies beside them and the loop's toy task; makes the runs to be killed."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDERS = sorted(path for path in HERE.iterdir() if path.is_dir() and path.name[0] != "_")
sys.path += [str(path) for path in (*FOLDERS, HERE.parent / "training")]


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """Runs that nobody kills, and how to start others: `runs.References`."""
    import runs

    with runs.references(tmp_path_factory.mktemp("runs")) as found:
        yield found
