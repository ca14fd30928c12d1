"""Lets the tests of this folder import what sits beside them, and share one parent of processes."""

import sys
from pathlib import Path

import pytest
from processes import Family

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """Forks processes that need not import torch; for tests of the group "whole runs"."""
    parent = Family(tmp_path_factory.mktemp("family"), "tcformer.tasks.runner")
    yield parent
    parent.close()
