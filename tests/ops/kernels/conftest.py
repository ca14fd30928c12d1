"""Tests of the Triton kernels: on a GPU where there is one, else in Triton's interpreter.

The interpreter must be asked for before a kernel is defined and then holds for the whole process,
so `tests/ops/test_triton.py` runs this folder in processes of their own and nothing here is
collected anywhere else.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def device():
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Memory that no kernel wrote shows up as NaN, or as an index far out of range."""
    import tcformer.ops.regroup.triton  # noqa: F401  (defines its kernels before anything is patched)

    real = torch.Tensor.new_empty

    def poisoned(self, *size, **options):
        out = real(self, *size, **options)
        if out.is_floating_point():
            return out.fill_(float("nan"))
        return out.fill_(2**30) if out.itemsize >= 4 else out

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
