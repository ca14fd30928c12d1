"""`checks/gpu.py` without a GPU: every part in the interpreter, and that it finds what is wrong."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "checks"

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs the triton package")

# Clusters that forget half of the centers; and timings that ask for right clusters first.
WRONG = """
import sys
sys.path.insert(0, sys.argv[1])
import gpu
from tcformer.ops.dpc_knn import triton as kernels
assign = kernels.assign
kernels.assign = lambda *arguments: assign(*arguments) // 2
gpu.PARTS = tuple(
    part._replace(needs=("clustering",) if part.needs else ())
    for part in gpu.PARTS
    if part.name in ("clustering", "training")
)
sys.exit(gpu.main(["--quick", "--out", sys.argv[2]]))
"""


def run(*command):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TRITON_"))}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def results(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return {line["part"]: line for line in map(json.loads, lines)}


@pytest.mark.slow(seconds=60)
@pytest.mark.timeout(1500)
def test_every_part_in_the_interpreter(tmp_path):
    done = run(CHECKS / "gpu.py", "--quick", "--out", tmp_path)
    found = results(tmp_path)
    problems = {name: line["problems"] for name, line in found.items() if line["problems"]}
    assert (done.returncode, problems) == (0, {}), done.stderr[-3000:]
    assert list(found) == [
        *("facts", "kernel_tests", "self_check", "clustering", "certificate", "gathers"),
        *("networks", "eager_speed", "compiled", "training", "sanitizer"),
    ]
    assert {line["state"] for line in found.values()} == {"right"}
    operators = found["compiled"]["numbers"]["operators"]
    assert operators["tcformer.dpc_knn.default"] == 3
    used = [one["allowance_used"] for one in found["certificate"]["numbers"].values()]
    assert len(used) > 2
    assert all(0 <= one <= 1 for one in used)


@pytest.mark.slow(seconds=20)
@pytest.mark.timeout(900)
def test_nothing_is_timed_on_wrong_clusters(tmp_path):
    done = run("-c", WRONG, CHECKS, tmp_path, "--quick")
    found = results(tmp_path)
    assert done.returncode == 1, done.stderr[-3000:]
    assert found["clustering"]["state"] == "wrong"
    assert any("equal tokens" in text for text in found["clustering"]["problems"])
    assert found["training"]["state"] == "left out"
    assert found["training"]["numbers"] == {}


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.syspath_prepend(str(CHECKS))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ours = ("gpu", "fast", "right", "references", "run")
    before = {name: sys.modules.pop(name, None) for name in ours}
    try:
        import gpu

        assert gpu.main(["--out", str(tmp_path)]) == 2
    finally:
        for name in ours:
            sys.modules.pop(name, None)
            if before[name] is not None:
                sys.modules[name] = before[name]
    assert "no GPU" in capsys.readouterr().err
