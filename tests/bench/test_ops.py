"""Ops side by side, on what the network hands them."""

import pytest
import torch

from tcformer.bench import ops, tables

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found():
    return ops.boundaries(2, 64, device=CPU)


def test_what_reaches_the_three_ctms(found):
    assert [tuple(b.unmerged.x.shape) for b in found] == [(2, 256, 128), (2, 64, 320), (2, 16, 512)]
    assert [b.merged.num_tokens for b in found] == [64, 16, 4]
    for boundary in found:
        before, after = boundary.unmerged.layout.cell_to_token, boundary.merged.cell_to_token
        assert torch.equal(boundary.assignment.gather(1, before), after)


def test_every_op_has_cases_in_both_directions(found):
    forward = list(ops.cases(ops.NAMES, found, "forward", with_published=True))
    both = list(ops.cases(ops.NAMES, found, "forward+backward", with_published=True))
    assert {case.op for case in forward} == set(ops.NAMES)
    assert {case.op for case in both} == set(ops.NAMES) - {"dpc_knn"}
    directions = [case.place for case in forward if case.op == "regroup"]
    assert sum("tokens to map" in place for place in directions) == 3
    assert sum("map to tokens" in place for place in directions) == 3


@pytest.mark.parametrize("op", ops.NAMES)
def test_a_row(found, op):
    case = next(ops.cases([op], found[2:], "forward", with_published=True))
    row = ops.measure(case, device=CPU, rounds=3, warmup=1, turn=0.0)
    eager = row["implementations"]["eager"]
    assert eager["ratio"] is None
    others = {name: o for name, o in row["implementations"].items() if name != "eager"}
    assert all(one["ratio"]["median"] > 0 for one in others.values())
    if op in ("dpc_knn", "attend"):
        expected = case.flops / eager["seconds"]["median"]
        assert eager["flops_per_second"] == pytest.approx(expected)
    text = "\n".join(tables.op(row, {"float32": 1e12}))
    assert "eager" in text


def test_products_are_counted(found):
    case = next(ops.cases(["dpc_knn"], found, "forward", with_published=False))
    # 256 tokens of 128 channels against 256 tokens and 64 centers, two images.
    assert case.flops == 2 * 2 * 256 * 128 * (256 + 64)


def test_implementations_compute_the_same(found):
    cases = list(ops.cases(["regroup", "attend"], found, "forward", with_published=True))
    assert "reference" in cases[5].calls
    assert "too slow" in cases[0].skipped["reference"]
    for case in cases:
        results = [call() for call in case.calls.values()]
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-4)


def test_the_published_clustering_is_left_out_where_it_does_not_fit(found, monkeypatch):
    monkeypatch.setattr(ops, "free_memory", lambda device: 1000)
    case = next(ops.cases(["dpc_knn"], found, "forward", with_published=True))
    assert "would need about" in case.skipped["published"]
    assert "published" not in case.calls


def test_one_that_declines_is_named_and_the_rest_goes_on():
    def decline():
        raise ValueError("not for 49 tokens")

    case = ops.Case("attend", "somewhere", {"eager": lambda: None, "clever": decline})
    row = ops.measure(case, device=CPU, rounds=2, warmup=0, turn=0.0)
    assert list(row["implementations"]) == ["eager"]
    assert row["skipped"] == {"clever": "not for 49 tokens"}


def test_ceilings():
    found = ops.ceilings(CPU, quick=True)
    assert {"float32", "bf16", "copy"} <= set(found) <= {"float32", "onednn", "bf16", "copy"}
    assert all(value > 1e8 for value in found.values())
