"""Backends: which runs, why another does not, and how little Python stands before the kernels."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch

import tcformer
from tcformer.ops import csrc, dispatch, plan_token_map, regroup
from tcformer.tokens import grid_layout

needs_cpp = pytest.mark.skipif(
    csrc.library() is None, reason=f"no C++ kernels: {csrc.unsupported_reason()}"
)
CPU = torch.device("cpu")
PACKAGE = str(Path(tcformer.__file__).parent)
CHECKS = str(Path(PACKAGE, "shapes.py"))  # which the package has while it is tested


@pytest.fixture
def without_library(monkeypatch):
    monkeypatch.setattr(csrc, "_load", lambda: (None, None, "the test says so"))


def test_choosing_without_it(without_library):
    names = ("cpp", "eager", "reference")
    assert dispatch.resolve("op", "auto", names, CPU) == "eager"
    assert dispatch.resolve("op", "eager", names, CPU) == "eager"
    with pytest.raises(ValueError, match=r"op: .*'cpp' cannot run here: the test says so\."):
        dispatch.resolve("op", "cpp", names, CPU)


@needs_cpp
def test_choosing_with_it():
    names = ("cpp", "eager", "reference")
    assert dispatch.resolve("op", "auto", names, CPU) == "cpp"
    assert dispatch.resolve("op", "auto", names, torch.device("meta")) == "eager"
    assert dispatch.resolve("op", "auto", names, CPU, unsupported={"cpp": "no"}) == "eager"
    with pytest.raises(ValueError, match="cannot run here: x is odd"):
        dispatch.resolve("op", "cpp", names, CPU, unsupported={"cpp": "x is odd"})
    with pytest.raises(ValueError, match="these are on meta"):
        dispatch.resolve("op", "cpp", names, torch.device("meta"))


def test_the_interpreter_of_triton_is_never_chosen(monkeypatch, without_library):
    names = ("triton", "cpp", "eager")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.resolve("op", "auto", names, CPU) == "eager"
    assert dispatch.resolve("op", "triton", names, CPU) == "triton"
    with dispatch.interpreted_kernels():  # but where somebody tries networks on the kernels
        assert dispatch.resolve("op", "auto", ("cpp", "triton", "eager"), CPU) == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="need a GPU"):
        dispatch.resolve("op", "triton", names, CPU)


@needs_cpp
def test_old_names_of_backends_mean_the_new_ones():
    x, index = torch.randn(1, 3, 2), torch.tensor([[0, 1, 2]])
    for old, new in (("native", "cpp"), ("portable", "export")):
        assert torch.equal(
            regroup(x, index, index, 3, impl=old), regroup(x, index, index, 3, impl=new)
        )


@needs_cpp
def test_a_plan_carries_its_backend():
    layout = grid_layout(1, (4, 6), CPU)
    for impl, backend in (("auto", "cpp"), ("eager", "eager"), ("portable", "export")):
        plan = plan_token_map(layout, (2, 3), impl=impl)
        assert plan.backend == backend
        assert plan_token_map(layout, impl=impl).backend == backend
    with dispatch.plain_pytorch("regroup"):
        assert plan_token_map(layout, (2, 3)).to_map.backend == "eager"
    with dispatch.plain_pytorch("linear"):
        assert plan_token_map(layout, (2, 3)).to_map.backend == "cpp"


@needs_cpp
def test_little_python_stands_before_the_kernels():
    model, images = timm.create_model("tcformer_light").eval(), torch.randn(1, 3, 224, 224)
    calls: Counter[str] = Counter()
    depth: dict[str, int] = {}

    def is_ours(code):
        return code.co_filename.startswith(PACKAGE) and code.co_filename != CHECKS

    def note(frame, event, _):
        code = frame.f_code
        if event != "call" or not is_ours(code):
            return
        calls[f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_qualname}"] += 1
        if code is csrc.run.__code__:
            above, outer = -1, frame  # frames of the package below the network's own `forward`
            while outer is not None:
                above += is_ours(outer.f_code)
                outer = outer.f_back
            kernel = frame.f_locals["function"]
            depth[kernel] = max(depth.get(kernel, 0), above)

    with torch.inference_mode():
        model(images)  # what is decided once is decided here
        sys.setprofile(note)
        try:
            model(images)
        finally:
            sys.setprofile(None)
    most = "\n".join(f"{count:5} {where}" for where, count in calls.most_common(40))
    assert calls.total() <= 600, f"{calls.total()} frames:\n{most}"
    assert len(depth) == 4
    assert max(depth.values()) <= 9, depth
