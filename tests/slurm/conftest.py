"""A real Slurm for the tests of this folder, shared by all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from loopback_slurm import LoopbackSlurm, Unavailable, reason_against


@pytest.fixture(scope="session")
def running_slurm() -> Iterator[LoopbackSlurm]:
    """The daemons; skips, with the reason, where they cannot run."""
    why_not = reason_against()
    if why_not is None:
        try:
            with LoopbackSlurm() as cluster:
                yield cluster
            return
        except Unavailable as problem:
            why_not = str(problem)
    if os.environ.get("TCFORMER_REQUIRE_SLURM") == "1":
        pytest.fail(f"TCFORMER_REQUIRE_SLURM is 1, but: {why_not}")
    pytest.skip(f"no Slurm here: {why_not}")


@pytest.fixture
def slurm(running_slurm: LoopbackSlurm) -> Iterator[LoopbackSlurm]:
    """The cluster, without jobs before and after the test."""
    yield running_slurm
    running_slurm.cancel_everything()
