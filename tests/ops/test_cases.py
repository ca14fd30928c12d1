"""The cases that tests and `tcformer bench` share, and the check that is made with them."""

import importlib

import pytest
import torch

from tcformer.ops import cases


@pytest.mark.parametrize(("op", "impl"), sorted(cases.implementations()))
def test_every_implementation_that_can_run_here_agrees(op, impl):
    assert cases.check(op, impl).problem is None


def test_convolutions_are_checked_in_float32(monkeypatch):
    seen = []

    def call(impl):
        seen.append(settings())
        return (torch.zeros(1, dtype=torch.int64),)

    def settings():
        cudnn = torch.backends.cudnn
        return cudnn.enabled, cudnn.benchmark, cudnn.allow_tf32

    monkeypatch.setattr(cases, "CASES", (cases.Case("regroup", "one", call, ()),))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    assert before == (True, True, True)
    cases.check("regroup", "eager")
    assert seen[-1] == (True, True, False)
    assert settings() == before


def test_an_op_without_cases_would_not_pass(monkeypatch):
    monkeypatch.setattr(cases, "CASES", ())
    assert "no case" in cases.check("dpc_knn", "eager").problem


@pytest.mark.parametrize("op", ["dpc_knn", "regroup", "merge", "attend", "token_conv"])
def test_a_wrong_result_is_found(op, monkeypatch):
    module = importlib.import_module(f"tcformer.ops.{op}.eager")
    monkeypatch.setattr(module, op, slightly_wrong(getattr(module, op)))
    found = cases.check(op, "eager")
    assert found.problem
    assert "\n" not in found.problem


def test_all_failures_are_listed(monkeypatch):
    from tcformer.ops.attend import eager

    monkeypatch.setattr(eager, "attend", lambda q, k, v, bias, dropout: q * v.sum() * torch.nan)
    assert [(one.op, one.impl) for one in cases.failures()] == [("attend", "eager")]


def slightly_wrong(function):
    """One label moved by one, or one value in a thousand."""

    def wrong(*args, **kwargs):
        out = function(*args, **kwargs)
        first, *rest = out if isinstance(out, tuple) else (out,)
        if first.is_floating_point():
            first = first * 1.001
        else:
            first = first.clone()
            first[0, -1] = (first[0, -1] + 1) % 2
        return (first, *rest) if isinstance(out, tuple) else first

    return wrong


@pytest.mark.parametrize(
    ("error", "says"),
    [(RuntimeError("no kernel\nimage"), "RuntimeError: no kernel"), (ValueError("no"), "declines")],
)
def test_one_that_cannot_even_start(error, says, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    module = importlib.import_module("tcformer.ops.attend")
    real = module.attend

    def attend(*args, impl, **kwargs):
        return real(*args, impl=impl, **kwargs) if impl == "reference" else fail()

    monkeypatch.setattr(module, "attend", attend)
    problem = cases.check("attend", "eager").problem
    assert says in problem
    assert "\n" not in problem
