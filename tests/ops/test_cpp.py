"""The optional C++ library: exact functions, and a build that fails in words or not at all."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import tcformer
from tcformer.cli import main
from tcformer.ops import csrc
from tcformer.ops.csrc import build

needs_library = pytest.mark.skipif(
    csrc.library() is None, reason=f"no C++ kernels: {csrc.unsupported_reason()}"
)
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache of its own and, to compile fast, the common source alone."""
    shutil.copytree(build.HERE, tmp_path / "ops" / "csrc")
    monkeypatch.setattr(build, "HERE", tmp_path / "ops" / "csrc")
    monkeypatch.setenv("TCFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name in ("CXX", "TCFORMER_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mapped(x, function):
    out = torch.empty_like(x)
    csrc.run("tcf_map", x, out, x.numel(), function)
    return out


@needs_library
def test_functions_are_as_exact_as_float32_allows():
    x = torch.linspace(-12, 12, 100_003)
    wide = x.double().requires_grad_()
    gelu = F.gelu(wide)
    (slope,) = torch.autograd.grad(gelu.sum(), wide)
    torch.testing.assert_close(mapped(x, 0).double(), wide.detach().exp(), rtol=2e-7, atol=0)
    # Next to one, erf is rounded to 6e-8, and GELU multiplies that by x / 2.
    torch.testing.assert_close(mapped(x, 1).double(), gelu.detach(), rtol=1e-7, atol=9e-7)
    torch.testing.assert_close(mapped(x, 2).double(), slope, rtol=1e-7, atol=9e-7)
    # PyTorch's own error depends on the width of its vectors: 3.6e-7 with AVX2 (torch 2.15).
    budget = 2 * (F.gelu(x) - gelu).abs().max() + torch.finfo(x.dtype).eps * gelu.abs().max()
    assert (mapped(x, 1) - gelu).abs().max() <= budget


@needs_library
def test_odd_values_stay_odd():
    odd = torch.tensor([float("nan"), float("inf"), 0.0, -200.0])
    assert mapped(odd, 0)[0].isnan()
    assert mapped(odd, 0)[2:].tolist() == [1.0, 0.0]
    assert mapped(odd, 1)[0].isnan()
    assert mapped(odd, 1)[1:3].tolist() == [float("inf"), 0.0]
    assert abs(mapped(odd, 1)[3]) < 1e-20


@needs_library
def test_bfloat16_is_rounded_as_torch_rounds():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5_001, generator=g) * 10 ** torch.linspace(-42, 38, 5_001)
    ties = (torch.arange(4_000, dtype=torch.int32) * 0x8000 + 0x3F800000).view(torch.float32)
    x = torch.cat((x, ties, torch.tensor([float("inf"), -float("inf"), 3.4e38])))
    assert torch.equal(mapped(x, 3), x.bfloat16().float())
    assert mapped(torch.tensor([float("nan")]), 3).isnan().all()


@needs_library
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_threads_are_those_of_torch():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        x = torch.randn(100_000)
        (x + 1).sum()
        running = len(list(Path("/proc/self/task").iterdir()))
        two = mapped(x, 1)
        assert len(list(Path("/proc/self/task").iterdir())) == running
        torch.set_num_threads(1)
        assert torch.equal(mapped(x, 1), two)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_it_is_compiled_once_and_a_damaged_file_anew(place):
    path = build.prepare()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert build.prepare() == path
    assert "-O3" in path.with_suffix(".log").read_text()
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    again = build.prepare()
    assert again.read_bytes() == content or again != path
    assert again.name == build._name(again.name[:24], again.read_bytes())
    source = build.HERE / "kernels.cpp"
    source.write_text(source.read_text() + "\n// changed\n")
    assert build.prepare() != again


@pytest.mark.slow
@needs_compiler
def test_processes_may_compile_at_once(place):
    code = (
        "import pathlib, sys; from tcformer.ops.csrc import build;"
        "build.HERE = pathlib.Path(sys.argv[1]); print(build.load()[1])"
    )
    command = [sys.executable, "-c", code, str(build.HERE)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(list((place / "cache").rglob("*.so"))) == 1
    assert not [path for path in (place / "cache").rglob("*") if path.name.startswith("tmp")]


def test_switched_off(place, monkeypatch):
    monkeypatch.setenv("TCFORMER_NATIVE", "0")
    with pytest.raises(build.Unavailable, match="TCFORMER_NATIVE is 0"):
        build.load()


@pytest.mark.parametrize(
    ("cxx", "words"),
    [("", r"neither g\+\+ nor clang\+\+"), ("icpx -v", "CXX names, icpx, is not on the path")],
)
def test_no_compiler(place, monkeypatch, cxx, words):
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(build.Unavailable, match=words):
        build.load()


def test_a_broken_compiler(place, monkeypatch):
    broken = place / "broken"
    broken.write_text("#!/no/such/shell\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(build.Unavailable, match="does not run"):
        build.load()
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho out of ideas >&2\nexit 3\n')
    with pytest.raises(build.Unavailable, match="failed with status 3") as error:
        build.load()
    log = Path(str(error.value).rpartition(" ")[2])
    assert "out of ideas" in log.read_text()


def test_the_temporary_folder_stands_in_for_the_cache(place, monkeypatch):
    (place / "file").write_text("")
    monkeypatch.setenv("TCFORMER_CACHE", str(place / "file" / "cache"))
    folder = build.private_folder()
    assert folder.parent == place / "temporary"
    folder.chmod(0o777)
    with pytest.raises(build.Unavailable, match="open to other users"):
        build.private_folder()


def test_a_folder_of_somebody_else_is_refused(place, monkeypatch):
    build.private_folder()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    for parent, name in (("cache", "native-12345"), ("temporary", "tcformer-native-12345")):
        (place / parent / name).mkdir(parents=True)
    with pytest.raises(build.Unavailable, match="belongs to somebody else"):
        build.private_folder()


def test_a_machine_without_a_compiler(place, monkeypatch, capsys):
    """The model runs, and the doctor says why it is slower than it could be."""
    model = tcformer.create_model("tcformer_nano").eval()
    monkeypatch.setenv("PATH", str(place))
    csrc._load.cache_clear()
    try:
        assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
        assert main(["doctor"]) == 0
    finally:
        monkeypatch.undo()
        csrc._load.cache_clear()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "C++ kernels" in line]
    assert "neither g++ nor clang++ is on the path" in line
