"""The Triton kernels without a GPU: logic in the interpreter, machine code for sm_90.

Fake tensors that claim to be on a GPU run through the same code as real ones there: what would
have to wait for the device (the value of a tensor, a size that depends on data) cannot be had of
them, and the launches that they reach are those that a GPU would see.
"""

import importlib
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import sm90
import torch
from compiled import Graphs, fake
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import tcformer
from tcformer.cli import doctor
from tcformer.ops import dispatch, dpc_knn, regroup
from tcformer.ops.linear import unsupported_reason as onednn_unsupported_reason
from tcformer.ops.regroup import apply_plan, plan_both_ways

dpc_knn_module = importlib.import_module("tcformer.ops.dpc_knn")
regroup_module = importlib.import_module("tcformer.ops.regroup")
ROOT = Path(__file__).parents[2]
FILES = [
    pytest.param(path.name, marks=[] if path.name == "test_regroup.py" else [pytest.mark.slow])
    for path in sorted((ROOT / "tests" / "ops" / "kernels").glob("test_*.py"))
]

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs the triton package"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted, not compiled"
    ),
]


@pytest.mark.timeout(600)  # seconds of work, which may take minutes on a busy machine
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
            *(sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"),
            f"tests/ops/kernels/{name}",
        ],
        cwd=ROOT,
        env={**environment, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    if reason := re.search(r"cannot interpret a loop .*", done.stdout):
        pytest.skip(reason.group())
    assert " passed" in done.stdout


def regroup_kernels():
    return importlib.import_module("tcformer.ops.regroup.triton")  # which needs triton


@pytest.fixture
def launches(monkeypatch, tmp_path):
    """The launches that a test reaches; its tensors are fake, its GPU a pretence."""
    kernels = regroup_kernels()

    def gather_sum(x, rows, transposed):
        return kernels.launch_gather_sum(x, kernels.GatherSum(*rows))

    # Opaque operators would end at their fake implementations.
    monkeypatch.setattr(dpc_knn_module, "_OPERATOR", dpc_knn_module._run)
    monkeypatch.setattr(kernels, "gather_sum", gather_sum)
    monkeypatch.setattr(kernels, "plan_op", kernels._build)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    with FakeTensorMode(), sm90.recorded() as made:
        yield made


def check_machine_code(launches, folder):
    for launch in launches:
        made = sm90.compiled(launch, folder)
        text = f"{launch.name} {dict(launch.constants)}: {made.registers} registers"
        assert made.shared <= sm90.SHARED_MEMORY, text
        # Bytes a thread. None in the models; the longest lists do not fit, once, after the loop.
        assert made.spilled <= (256 if dict(launch.constants).get("LIST") == 32 else 64), text
        assert ("wgmma" in made.ptx) == (launch.name == "closest_kernel"), text
        assert not re.search(r"\b(atom|red)\.", made.ptx), text


def test_clustering_waits_for_nothing_and_compiles(launches, tmp_path):
    clusters = dpc_knn(fake(256, 3136, 128), 784, tolerance=1e-3)
    assert clusters.assignment.shape == (256, 3136)
    assert clusters.centers.shape == (256, 784)
    names = {launch.name: launch for launch in launches}
    rows = {"prepare_kernel", "resolve_kernel", "compact_kernel"}
    assert set(names) == {"closest_kernel", "scan_kernel", *rows}
    assert sum(launches.values()) == 12
    check_machine_code(names.values(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "tokens", "channels", "clusters", "k", "masked"),
    [
        (256, 784, 320, 196, 5, False),
        (256, 196, 512, 49, 5, True),
        (1, 65536, 128, 16384, 5, False),
        (3, 101, 1, 7, 29, False),
    ],
)
def test_every_variant_compiles(launches, tmp_path, batch, tokens, channels, clusters, k, masked):
    mask = fake(batch, tokens, dtype=torch.bool) if masked else None
    dpc_knn(fake(batch, tokens, channels), clusters, k, mask=mask)
    check_machine_code(launches, tmp_path)


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [
        (128, torch.bfloat16),
        pytest.param(1, torch.float16, marks=pytest.mark.slow),
        pytest.param(30, torch.float32, marks=pytest.mark.slow),
        pytest.param(1024, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_regrouping_waits_for_nothing_and_compiles(launches, tmp_path, channels, dtype):
    cells, pixels = fake(8, 3136, dtype=torch.int64), fake(8, 3136, dtype=torch.int64)
    for plan in plan_both_ways(cells, pixels, 784, 784):
        out = apply_plan(fake(8, 784, channels, dtype=dtype), plan)
        assert out.shape == (8, 784, channels)
        assert out.dtype == dtype
    regroup(fake(8, 784, channels, dtype=dtype), cells, pixels, 784, weight=fake(8, 3136))
    check_machine_code(launches, tmp_path)
    kinds = {launch.name for launch in launches} - {"gather_sum_kernel"}
    assert kinds == {f"{name}_kernel" for name in ("key", "head", "first", "row", "entry")}


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, a new one and an old one; the first is torch's current one. Launches succeed."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((9, 0), (7, 5))[index])
    monkeypatch.setattr(regroup_kernels(), "try_out", lambda device: None)
    regroup_module._gpu_unsupported_reason.cache_clear()
    yield
    regroup_module._gpu_unsupported_reason.cache_clear()


def chosen(device):
    return dispatch.resolve("op", "auto", ("triton", "eager"), torch.device(device))


def test_an_old_gpu_and_rocm_are_refused_in_words(gpus, monkeypatch):
    assert chosen("cuda") == chosen("cuda:0") == "triton"
    assert chosen("cuda:1") == "eager"
    with pytest.raises(ValueError, match=r"needs compute capability 8.0, this GPU has 7.5"):
        dispatch.resolve("op", "triton", ("triton", "eager"), torch.device("cuda:1"))
    monkeypatch.setattr(torch.version, "hip", "7.1")
    regroup_module._gpu_unsupported_reason.cache_clear()
    assert chosen("cuda") == "eager"
    assert "ROCm" in dispatch.unsupported_reason("triton", "cuda")


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (RuntimeError("Failed to find C compiler. Specify it via CC.\nline two"), "compiler"),
        (AssertionError(), "AssertionError"),
        (None, None),
        ("it gave a wrong sum", "wrong sum"),
    ],
)
def test_whether_triton_starts_is_tried_once_a_gpu(gpus, monkeypatch, outcome, word):
    tried = []

    def try_out(device):
        tried.append(device)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(regroup_kernels(), "try_out", try_out)
    with FakeTensorMode():  # a compiler asks in the midst of its tensors without values
        for _ in range(2):
            assert chosen("cuda:0") == ("triton" if word is None else "eager")
    assert tried == [torch.device("cuda:0")]
    why = dispatch.unsupported_reason("triton", "cuda:0")
    assert why is None if word is None else word in why
    assert "\n" not in str(why)
    finding = doctor._triton()
    assert (finding.status, finding.why) == ("off" if word else "ok", why)


class Operators(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_model_waits_for_nothing():
    model = tcformer.create_model("tcformer_nano").eval()
    real = model.state_dict()
    onednn_unsupported_reason()  # else it would be asked of fake tensors, and the answer kept
    with FakeTensorMode():
        state = {name: fake(*t.shape, dtype=t.dtype) for name, t in real.items()}
        with Operators() as seen:
            out = torch.func.functional_call(model, state, (fake(2, 3, 64, 64),))
    assert out.device.type == "cuda"
    assert "tcformer.dpc_knn.default" in seen.names
    assert "tcformer.gather_sum_triton.default" in seen.names
    assert "tcformer.plan_both_ways_triton.default" in seen.names
    assert not [operator for operator in seen.names if "embedding_bag" in operator]
    # A copy to the host would wait, and so would these, whose results are of unknown size.
    for name in ("nonzero", "unique", "_local_scalar_dense", "masked_select", "equal"):
        assert not [operator for operator in seen.names if name in operator]


@pytest.mark.versions
@pytest.mark.slow
def test_a_model_is_one_graph_that_holds_the_kernels():
    model = tcformer.create_model("tcformer_nano").eval()
    real = model.state_dict()
    onednn_unsupported_reason()

    def run(images, state):
        return torch.func.functional_call(model, state, (images,))

    with FakeTensorMode():
        state = {name: fake(*t.shape, dtype=t.dtype) for name, t in real.items()}
        torch._dynamo.reset()
        graphs = Graphs()
        compiled = torch.compile(run, backend=graphs, fullgraph=True)
        assert compiled(fake(2, 3, 64, 64), state).shape == (2, 1000)
    assert graphs.count("tcformer.dpc_knn") == 3
    assert graphs.count("tcformer.plan_both_ways_triton") == 6
    assert graphs.count("tcformer.gather_sum_triton") == 29
    assert not graphs.count("topk", "scatter_add", "embedding_bag")
