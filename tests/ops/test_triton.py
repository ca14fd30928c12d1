"""The Triton kernels without a GPU: logic in the interpreter, machine code for sm_90."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (ROOT / "tests" / "ops" / "kernels").glob("test_*.py"))

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the triton package")


@needs_triton
@pytest.mark.parametrize("name", FILES)
def test_the_kernels_in_the_interpreter(name):
    # In a process of its own: see tests/ops/kernels/conftest.py.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "TRITON_"))
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"tests/ops/kernels/{name}",
        ],
        cwd=ROOT,
        env={**environment, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
