"""Counts and values for each merge mean the same everywhere, whatever type they come in."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tcformer import Tokens, create_model
from tcformer.arguments import as_float, as_int, as_list, as_size
from tcformer.models.heads import HeatmapHead, SemanticFPNHead, TopDownPose
from tcformer.models.mta import MTA
from tcformer.models.sizes import MergeRule
from tcformer.models.tcformer import CTM, TCFormer
from tcformer.ops import (
    attend,
    cluster_windows,
    csrc,
    dpc_knn,
    map_to_tokens,
    merge_tokens,
    plan_token_map,
    regroup,
    tokens_to_map,
)
from tcformer.ops.local import Windows, grid_windows, nested_grids, run_windows
from tcformer.ops.regroup import plan_both_ways, plan_regroup
from tcformer.tokens import grid_layout, pixel_of_cell

NATIVE = pytest.mark.skipif(
    csrc.library() is None, reason=f"no kernels: {csrc.unsupported_reason()}"
)

INTEGERS = [np.int64, np.int32, np.uint8, torch.tensor, lambda n: torch.tensor([n]), np.array]
NO_INTEGERS = [
    *(4.0, np.float32(4), torch.tensor(4.0), math.nan, math.inf, 1j, np.bool_(True), Fraction(4)),
    *(None, "4", b"4", [4], (4, 4), {}, np.array([4, 4]), torch.tensor([4, 4]), object()),
    torch.tensor(4, device="meta"),
]
TOO_SMALL = [0, -1, np.int64(0), np.int8(-3), torch.tensor(-2), -(2**70), False]

REALS = [np.float64, np.float32, np.float16, torch.tensor, np.array, Fraction]
NO_REALS = ["0.25", b"0.25", np.str_("0.25"), None, 1j, np.complex64(1), True, np.bool_(True)]
NO_REALS += [[0.25], np.array([0.1, 0.2]), torch.tensor([0.1, 0.2]), torch.tensor(0.1j), object()]

X = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
GRID = grid_layout(2, (4, 4), torch.device("cpu"))
LABELS = torch.arange(16).expand(2, -1) // 4
LAYOUT = merge_tokens(Tokens(X, GRID), LABELS, 4).layout
HEADS = X.view(2, 1, 16, 8)


def tiny(**options):
    sizes = {"embed_dims": (8,) * 4, "num_heads": (1,) * 4, "depths": (1,) * 4}
    return TCFormer(**{**sizes, **options}, device="meta")


def mta(**options):
    return MTA(**{"in_channels": (8, 8), "out_channels": 8, "sr_ratios": 2, **options})


# Each: a name and a function of one count, for which 2 (or 4) is right.
COUNTS = {
    "dpc_knn: num_clusters": lambda n: dpc_knn(X, n),
    "dpc_knn: k": lambda n: dpc_knn(X, 4, n),
    "cluster_windows: num_clusters": lambda n: cluster_windows(X, run_windows(16, 2), n),
    "dpc_knn: k of a part": lambda n: cluster_windows(X, run_windows(16, 2), 4, n),
    "regroup: num_dst": lambda n: regroup(X, LABELS * 0, LABELS % 2, n),
    "regroup: num_dst of a plan": lambda n: plan_regroup(LABELS, LABELS % 2, 4, n),
    "regroup: num_a": lambda n: plan_both_ways(LABELS, LABELS, n, 4),
    "merge_tokens: num_clusters": lambda n: merge_tokens(Tokens(X, GRID), LABELS, n),
    "map_size": lambda n: tokens_to_map(Tokens(X[:, :4], LAYOUT), (n, n)),
    "num_tokens": lambda n: plan_token_map(LAYOUT._replace(num_tokens=n)),
    "map_size of the layout": lambda n: plan_token_map(LAYOUT._replace(map_size=(n, 2))),
    "grid_size": lambda n: grid_layout(1, (n, 3), torch.device("cpu")),
    "map_size of pixels": lambda n: pixel_of_cell((4, 4), (n, n), torch.device("cpu")),
    "a part grid": lambda n: nested_grids([(n, n), (1, 1)]),
    "num_clusters": lambda n: MergeRule(num_clusters=n),
    "k": lambda n: MergeRule(k=n),
    "HeatmapHead: num_keypoints": lambda n: HeatmapHead(3, n),
    "SemanticFPNHead: levels": lambda n: SemanticFPNHead(3, 2, 4, n),
    "MTA: out_channels": lambda n: mta(out_channels=n),
    "MTA: num_outs": lambda n: mta(num_outs=n),
    "MTA: num_heads": lambda n: mta(num_heads=(n, 1)),
    "MTA: sr_ratios": lambda n: mta(sr_ratios=(n, 1)),
    "in_chans": lambda n: tiny(in_chans=n),
    "embed_dims": lambda n: tiny(embed_dims=(n,) * 4),
    "num_heads": lambda n: tiny(num_heads=(n, 1, 1, 1)),
    "depths": lambda n: tiny(depths=(n, 1, 1, 1)),
    "sr_ratios": lambda n: tiny(sr_ratios=(n, 1, 1, 1)),
    "num_clusters of a model": lambda n: tiny(num_clusters=(n, 1, 1)),
    "k of a model": lambda n: tiny(k=n),
}

# Each: a function of one real number, for which 0.25 is right, and whether 0 is.
REAL_ARGUMENTS = {
    "dpc_knn: tolerance": (lambda v: dpc_knn(X, 4, tolerance=v), True),
    "dpc_knn: tolerance of windows": (
        lambda v: cluster_windows(X, run_windows(16, 2), 4, tolerance=v),
        True,
    ),
    "regroup: eps": (lambda v: regroup(X, LABELS * 0, LABELS, 4, eps=v), True),
    "regroup: eps of a plan": (lambda v: plan_regroup(LABELS, LABELS, 4, 4, eps=v), True),
    "merge_tokens: eps": (lambda v: merge_tokens(Tokens(X, GRID), LABELS, 4, eps=v), True),
    "attend: dropout": (lambda v: attend(HEADS, HEADS, HEADS, dropout=v), True),
    "keep_ratio": (lambda v: MergeRule(keep_ratio=v), False),
    "density_noise": (lambda v: CTM(4, 4, density_noise=v), True),
    "keep_ratio of a model": (lambda v: tiny(keep_ratio=(v, 1, 1)), False),
    "mlp_ratios": (lambda v: tiny(mlp_ratios=(v, 4, 4, 4)), False),
    **{
        name: (lambda v, name=name: tiny(**{name: v}), True)
        for name in ("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
    },
    "MTA: drop_path": (lambda v: mta(drop_path=v), True),
    "MTA: mlp_ratios": (lambda v: mta(mlp_ratios=(v, 4)), False),
    "SemanticFPNHead: dropout": (lambda v: SemanticFPNHead(3, 2, 4, 1, v), True),
}


def values(found):
    """What can be compared of a result: tensors, numbers, the shapes of a module's parameters."""
    if isinstance(found, nn.Module):
        return [(name, tuple(p.shape)) for name, p in found.state_dict().items()]
    if isinstance(found, torch.Tensor):
        return found.tolist()
    if isinstance(found, tuple):
        return [values(part) for part in found]
    return found


@pytest.mark.parametrize("make", INTEGERS)
@pytest.mark.parametrize("name", COUNTS)
def test_a_count_may_be_any_integer(name, make):
    call = COUNTS[name]
    torch.manual_seed(0)
    assert values(call(make(4))) == values(call(4))


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_integer_is_refused_in_a_sentence(name):
    for wrong in NO_INTEGERS:
        if wrong is None and name in ("num_clusters", "num_clusters of a model", "MTA: num_outs"):
            continue  # as when left out
        with pytest.raises(TypeError, match=r"(?s)integer.* not .*\.$"):
            COUNTS[name](wrong)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_begin_at_one(name):
    for wrong in TOO_SMALL:
        with pytest.raises(ValueError, match=r"integer.* not "):
            COUNTS[name](wrong)


@pytest.mark.parametrize("name", REAL_ARGUMENTS)
def test_a_real_number_may_be_of_any_kind(name):
    call, zero = REAL_ARGUMENTS[name]
    for make in REALS:
        torch.manual_seed(0)
        found = values(call(make(0.25)))
        torch.manual_seed(0)
        assert found == values(call(0.25))
    for whole in (np.int64(1), torch.tensor(1), *([0, np.float32(0)] if zero else [])):
        call(whole)


@pytest.mark.parametrize("name", REAL_ARGUMENTS)
def test_what_is_no_real_number_is_refused_in_a_sentence(name):
    call, zero = REAL_ARGUMENTS[name]
    for wrong in NO_REALS:
        with pytest.raises(TypeError, match=r"must (be a finite number|lie in).* not .*\.$"):
            call(wrong)
    for wrong in (math.nan, np.float32("nan"), torch.tensor(math.nan), math.inf, -math.inf, -0.1):
        with pytest.raises(ValueError, match="must"):
            call(wrong)
    if not zero:
        with pytest.raises(ValueError, match="must"):
            call(0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(-5, 40), st.integers(-5, 40), st.sampled_from(INTEGERS), st.booleans())
def test_clusters_follow_the_number_and_not_its_type(clusters, k, make, windows):
    def call(m, near):
        return cluster_windows(X, run_windows(16, 2), m, near) if windows else dpc_knn(X, m, near)

    if make is np.uint8 and min(clusters, k) < 0:
        make = np.int16
    outcomes = []
    for m, near in ((clusters, k), (make(clusters), make(k))):
        try:
            outcomes.append(values(call(m, near)))
        except ValueError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1]
    limit = 8 if windows else 10**9
    assert (outcomes[0] == "refused") == (not 1 <= clusters <= limit or k < 1)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(max_size=4),
        st.binary(max_size=4),
        st.floats(),
        st.integers(-(2**80), 2**80),
        st.complex_numbers(),
        st.fractions(),
        st.decimals(),
        st.lists(st.integers(), max_size=3),
    )
)
def test_whatever_is_given_there_is_a_number_or_a_sentence(value):
    for read in (as_int, as_float):
        try:
            number = read("it", value)
        except ValueError as error:
            message = str(error)
        else:
            message = "it must be right."
            assert type(number) is (int if read is as_int else float)
            assert read is as_float or number == value
        assert message.startswith("it must ")
        assert message.endswith(".")
    assert as_list(value) is None or isinstance(value, list)


def test_sizes_are_pairs():
    for pair in ((2, 3), [2, 3], torch.Size((2, 3)), np.array([2, 3]), torch.tensor([2, 3])):
        assert as_size("size", pair) == (2, 3)
    for wrong in (2, None, "23", (2,), (2, 3, 4), (2.0, 3), (True, True), ("2", "3")):
        with pytest.raises(TypeError):
            as_size("size", wrong)
    with pytest.raises(ValueError, match="from 1, not 0"):
        as_size("size", (2, 0))


def test_decimals_are_no_floats_of_a_computer_but_a_mistake():
    with pytest.raises(TypeError):
        as_float("it", Decimal("0.25"))


def test_layouts_and_parts_of_numpys_integers_work():
    n = np.int64
    layout = LAYOUT._replace(num_tokens=n(4), grid_size=(n(4), n(4)), map_size=[n(2), n(2)])
    tokens = Tokens(X[:, :4], layout)
    assert torch.equal(tokens_to_map(tokens), tokens_to_map(Tokens(X[:, :4], LAYOUT)))
    assert torch.equal(
        map_to_tokens(X.view(2, 8, 4, 4), layout), map_to_tokens(X.view(2, 8, 4, 4), LAYOUT)
    )
    windows = grid_windows((4, 4), ((2, 2), (1, 1)))
    odd = Windows(n(4), n(4), n(4), windows.order, windows.place)
    assert values(cluster_windows(X, odd, n(2))) == values(cluster_windows(X, windows, 2))


def test_a_model_of_numpys_numbers_is_the_same_model():
    options = {"num_classes": 7, "keep_ratio": (0.5, 0.25, 0.5), "k": 3, "part_grids": (2, 2, 1)}
    odd = {
        "num_classes": np.int64(7),
        "keep_ratio": np.array([0.5, 0.25, 0.5], np.float32),
        "k": torch.tensor(3),
        "part_grids": (np.int64(2), (np.int32(2), torch.tensor(2)), 1),
    }
    nets = []
    for given_options in (options, odd):
        torch.manual_seed(0)
        nets.append(create_model("tcformer_nano", **given_options).eval())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(nets[0](images), nets[1](images))
    assert nets[0].ctm1.rule == nets[1].ctm1.rule
    nets[1].reset_classifier(np.int64(3))
    assert nets[1].num_classes == 3
    assert type(nets[1].num_classes) is int
    with pytest.raises(TypeError, match="num_classes"):
        nets[1].reset_classifier(3.0)
    backbone = create_model("tcformer_nano", num_classes=0)
    pose = TopDownPose(backbone, np.int64(5), neck_channels=np.int64(16), neck_heads=np.int64(2))
    with torch.no_grad():
        assert pose(images).shape == (1, 5, 8, 8)


@NATIVE
@pytest.mark.parametrize("wrong", [3.0, "3", None, np.float32(3), torch.tensor(3.0)])
def test_a_kernel_takes_the_types_that_it_declares(wrong):
    x, out = torch.zeros(4), torch.zeros(4)
    with pytest.raises(TypeError, match="tcf_map"):
        csrc.run("tcf_map", x, out, wrong, 0)
    with pytest.raises(TypeError, match="4 arguments, not 3"):
        csrc.run("tcf_map", x, out, 4)
    with pytest.raises(TypeError, match="dense tensors on the CPU"):
        csrc.run("tcf_map", x.to("meta"), out, 4, 0)
    with pytest.raises(TypeError, match="dense tensors on the CPU"):
        csrc.run("tcf_map", x[::2], out, 2, 0)


def test_the_declared_types_are_those_of_the_sources():
    folder = Path(csrc.__file__).parent.parent
    text = "".join(path.read_text() for path in sorted(folder.glob("*/kernels.cpp")))
    text = text.replace("\\\n", "\n")
    found = {}
    for name, arguments in re.findall(r"void (tcf_[a-z0-9_#A-Z]+)\(([^)]*int64_t threads)\)", text):
        letters = "".join(
            "p" if "*" in argument else "d" if "double" in argument else "i"
            for argument in arguments.split(",")[:-1]
        )
        for suffix in ("f32", "bf16") if "#" in name else ("",):
            found[name.partition("#")[0] + suffix] = letters
    assert found == csrc.KERNELS


@pytest.mark.slow(seconds=60)
def test_a_number_that_a_compiler_follows_stays_symbolic():
    @torch.compile(dynamic=True, fullgraph=True, backend="eager")
    def cluster(x):
        return dpc_knn(x, x.shape[1] // 2, impl="eager").centers

    for tokens in (16, 20, 24):
        x = torch.randn(1, tokens, 4)
        assert torch.equal(cluster(x), dpc_knn(x, tokens // 2, impl="eager").centers)
