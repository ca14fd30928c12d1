"""Tests of the Triton kernels: on a GPU where there is one, else in Triton's interpreter.

The interpreter must be asked for before a kernel is defined and then holds for the whole process,
so `tests/ops/test_triton.py` runs this folder in processes of their own and nothing here is
collected anywhere else.
"""

import os
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _why_not():
    if not INTERPRETED:
        return None if torch.cuda.is_available() else "needs a GPU or TRITON_INTERPRET=1"
    import triton
    import triton.language as tl

    @triton.jit
    def count(out_ptr, size):
        for place in range(0, size):
            tl.store(out_ptr + place, place)

    try:
        count[(1,)](torch.zeros(3, dtype=torch.int32), 3)
    except Exception as error:
        # Triton 3.6 with NumPy 2.4 for one: "only 0-dimensional arrays can be converted".
        return f"this Triton cannot interpret a loop with this NumPy: {error}"
    return None


WHY_NOT = _why_not()
collect_ignore_glob = ["test_*.py"] if WHY_NOT else []


def pytest_collection_modifyitems(items):
    for item in items:
        if WHY_NOT and Path(__file__).parent in item.path.parents:  # a file named on purpose
            item.add_marker(pytest.mark.skip(reason=WHY_NOT))


@pytest.fixture
def device():
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def poison():
    """Memory that no kernel wrote shows up as NaN, or as an index far out of range."""
    import tcformer.ops.regroup.triton  # noqa: F401  (defines its kernels before anything is patched)
    from tcformer.ops.cases import poisoned

    with poisoned():
        yield
