"""The neck: the published numbers, its levels and reductions, any size, one graph, gradients."""

import itertools
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import tcformer
from tcformer.models import MTA
from tcformer.models.mta import REDUCTIONS
from tcformer.tokens import Layout, Tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "mta"
SMALL = {"in_channels": (8, 16, 24, 32), "out_channels": 16, "num_heads": 2, "mlp_ratios": 4}
KINDS = {
    "sr_conv": "conv",
    "sr_pool": "pool",
    "gather": "cluster_linear",
    "gather_noextra": "cluster",
    "aggregate_once": "cluster_norm",
    "aggregate_twice": "cluster_norm_twice",
}


@cache
def numbers(name):
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: torch.tensor(value) for key, value in archive.items()}


def stage(x, cells, weight, grid, size):
    return Tokens(x, Layout(cells.long(), x.shape[1], grid, size, weight.reshape(cells.shape)))


def released_tokens():
    data = numbers("released")
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    return [
        stage(*(data[f"in{s}_{part}"] for part in ("x", "idx_token", "agg_weight")), sizes[0], size)
        for s, size in enumerate(sizes)
    ]


def cluster_tokens():
    data = numbers("clusters")
    sizes = [(16, 12), (8, 6), (4, 3), (2, 2)]
    return [
        stage(*(data[f"in/{part}{s}"] for part in ("x", "idx_token", "agg_weight")), sizes[0], size)
        for s, size in enumerate(sizes)
    ]


def drawn(neck, mode):
    """Weights that follow from their names, as the golden values have them."""
    state = {}
    for name, value in neck.state_dict().items():
        key, shape = f"neck.{name}", tuple(value.shape)
        normal = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
        owner, last = key.split(".")[-2:]
        if re.match(r"norm[0-9]*$", owner) and last == "weight":
            normal = 1 + 0.02 * normal
        elif last == "bias" or mode == "std":
            normal = 0.02 * normal
        else:
            normal = normal / np.sqrt(np.prod(shape[1:]))
        state[name] = torch.tensor(normal, dtype=torch.float32)
    neck.load_state_dict(state, strict=True)
    return neck.eval()


@pytest.mark.parametrize(
    ("case", "weights", "options"),
    [
        ("pose", "pose", {"num_outs": 4, "reduction": "pool"}),
        ("srconv", "srconv", {"num_outs": 4, "reduction": "conv"}),
        (
            "retina",
            "retina",
            {"num_outs": 5, "start_level": 1, "reduction": "pool", "add_extra_convs": "on_input"},
        ),
        ("maskrcnn_pool", "pose", {"num_outs": 5, "reduction": "pool"}),
    ],
)
@torch.no_grad()
def test_the_released_necks(case, weights, options):
    data = numbers("released")
    neck = MTA(**SMALL, **options).eval()
    prefix = f"{weights}/w/"
    state = {key.removeprefix(prefix): data[key] for key in data if key.startswith(prefix)}
    neck.load_state_dict(state, strict=True)
    maps = neck(released_tokens())
    assert len(maps) == options["num_outs"]
    for level, feature_map in enumerate(maps):
        name = case if f"{case}/out{level}" in data else weights
        torch.testing.assert_close(feature_map, data[f"{name}/out{level}"], rtol=0, atol=5e-6)


def test_the_neck_of_a_larger_checkpoint(tmp_path):
    data = numbers("released")
    weights = {key.removeprefix("pose/w/"): data[key] for key in data if key.startswith("pose/w/")}
    fork = {
        key.replace("dwconv.skip", "dwconv.dwconv_skip")
        if "skip" in key
        else key.replace("mlp.dwconv.", "mlp.dwconv.dwconv."): value
        for key, value in weights.items()
    }
    whole = {
        **{f"backbone.{key}": torch.zeros(1) for key in ("norm1.weight", "norm4.bias")},
        **{f"neck.{key}": value for key, value in weights.items()},
        "keypoint_head.final_layer.bias": torch.zeros(133),
    }
    torch.save({"meta": {}, "state_dict": whole}, tmp_path / "pose.pth")
    for source, ignored in ((weights, 0), (fork, 0), (whole, 3), (tmp_path / "pose.pth", 3)):
        neck = MTA(**SMALL, reduction="pool")
        report = tcformer.load_checkpoint(neck, source)
        assert report.complete
        assert len(report.loaded) == len(weights)
        assert len(report.ignored) == ignored
        for key, value in neck.state_dict().items():
            assert torch.equal(value, weights[key]), key
    with pytest.raises(tcformer.UserError, match=r"tensors are missing .*attn\.sr"):
        tcformer.load_checkpoint(MTA(**SMALL, reduction="conv"), weights)
    with pytest.raises(tcformer.UserError, match=r"unknown to the model .*lateral_convs\.3"):
        tcformer.load_checkpoint(MTA(**SMALL, reduction="pool", start_level=1), weights)


@pytest.mark.parametrize("mode", ["std", "fan"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_reduction_of_the_authors(kind, mode):
    data = numbers("clusters")
    neck = drawn(MTA(**SMALL, num_outs=4, reduction=KINDS[kind]), mode)
    compared = 0
    for level, feature_map in enumerate(neck(cluster_tokens())):
        key = f"{mode}/{'sr_pool' if level == 3 else kind}/out{level}"
        if key in data:
            tolerance = 2e-5 if mode == "std" else 5e-5
            torch.testing.assert_close(feature_map, data[key], rtol=0, atol=tolerance)
            compared += 1
    assert compared == (2 if mode == "std" else 4)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"reduction": "pool"}, 2_666_240),
        ({"reduction": "conv"}, 8_173_568),
        ({"reduction": "cluster"}, 2_666_240),
        ({"reduction": "pool", "num_outs": 5}, 2_666_240),
        ({"reduction": "pool", "num_outs": 5, "add_extra_convs": "on_input"}, 3_846_144),
        (
            {
                "reduction": "pool",
                "num_outs": 5,
                "start_level": 1,
                "add_extra_convs": "on_input",
            },
            3_618_560,
        ),
        ({"reduction": "pool", "out_channels": 128, "mlp_ratios": 2}, 537_472),
    ],
)
def test_parameters_are_those_of_the_published_necks(options, parameters):
    neck = MTA(**{"out_channels": 256, "num_heads": 4, **options})
    assert sum(p.numel() for p in neck.parameters()) == parameters


# Extra levels, on tokens of a real backbone.


@pytest.fixture(scope="module", params=["tcformer_nano", "tcformerv2_nano"])
def backbone(request):
    torch.manual_seed(0)
    return tcformer.create_model(request.param, num_classes=0).eval()


NANO = {"in_channels": (32, 64, 160, 256), "out_channels": 16}


@torch.no_grad()
def test_maps_halve_from_level_to_level(backbone):
    tokens = backbone.forward_tokens(torch.randn(2, 3, 96, 160))
    sizes = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3), (1, 2), (1, 1)]
    for start in range(4):
        neck = MTA(**NANO, num_outs=7 - start, start_level=start).eval()
        every = neck(tokens)
        assert [tuple(m.shape) for m in every] == [(2, 16, *size) for size in sizes[start:]]
        for neck.num_outs in range(1, 7 - start):  # fewer are the finest ones
            assert all(map(torch.equal, neck(tokens), every[: neck.num_outs]))


@torch.no_grad()
def test_what_extra_levels_are_made_of(backbone):
    tokens = backbone.forward_tokens(torch.randn(1, 3, 128, 128))
    own = tcformer.ops.tokens_to_map(tokens[-1])

    pooled = MTA(**NANO, num_outs=6)(tokens)
    assert torch.equal(pooled[4], pooled[3][:, :, ::2, ::2])
    assert torch.equal(pooled[5], pooled[4][:, :, ::2, ::2])

    for relu, source in itertools.product((False, True), ("on_input", "on_output")):
        options = {"add_extra_convs": source, "relu_before_extra_convs": relu}
        neck = MTA(**NANO, num_outs=6, **options)
        maps = neck(tokens)
        first, second = (extra.conv for extra in neck.extra_convs)
        assert torch.equal(maps[4], first(own if source == "on_input" else maps[3]))
        assert torch.equal(maps[5], second(maps[4].relu() if relu else maps[4]))

    assert MTA(**NANO, num_outs=5, add_extra_convs=True).add_extra_convs == "on_input"


@torch.no_grad()
def test_an_earlier_end_level(backbone):
    tokens = backbone.forward_tokens(torch.randn(1, 3, 64, 96))
    for reduction in ("pool", "cluster"):
        neck = MTA(**NANO, start_level=1, end_level=2, num_outs=3, reduction=reduction)
        maps = neck(tokens)
        assert [tuple(m.shape[2:]) for m in maps] == [(8, 12), (4, 6), (2, 3)]
        assert len(neck.lateral_convs) == 2
        assert len(neck.merge_blocks) == 1


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (33, 45)])
def test_any_size_any_batch_the_same_bits(backbone, size):
    images = torch.randn(3, 3, *size)
    tokens, one = backbone.forward_tokens(images), backbone.forward_tokens(images[1:2])
    for reduction in REDUCTIONS:
        torch.manual_seed(0)
        neck = MTA(**NANO, reduction=reduction, num_outs=5).eval()
        for map_, again, alone in zip(neck(tokens), neck(tokens), neck(one), strict=True):
            assert torch.equal(map_, again)
            torch.testing.assert_close(map_[1:2], alone, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(map_.isfinite().all() for map_ in neck(tokens))


EXTRAS = [False, "on_input", "on_output"] * 2


@pytest.mark.parametrize(("reduction", "extra"), list(zip(REDUCTIONS, EXTRAS, strict=True)))
def test_every_parameter_has_a_gradient(reduction, extra):
    torch.manual_seed(0)
    tokens = [stage._replace(x=stage.x.clone().requires_grad_()) for stage in released_tokens()]
    neck = MTA(**SMALL, num_outs=6, reduction=reduction, add_extra_convs=extra)
    drawn(neck, "fan").train()
    sum(m.square().sum() for m in neck(tokens)).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(stage.x.grad.abs().max() > 0 for stage in tokens)


@pytest.mark.parametrize("reduction", ["pool", "cluster_norm"])
def test_gradients_are_true(reduction):
    torch.manual_seed(0)
    tokens = [
        stage._replace(x=stage.x[:1, :, :4].double(), layout=one_image(stage.layout))
        for stage in released_tokens()[2:]
    ]
    neck = MTA((4, 4), 4, num_heads=2, mlp_ratios=1, sr_ratios=(2, 1), reduction=reduction)
    neck = neck.double()
    inputs = [stage.x.clone().requires_grad_() for stage in tokens]

    def run(*features):
        stages = [stage._replace(x=x) for stage, x in zip(tokens, features, strict=True)]
        return tuple(neck(stages))

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def one_image(layout):
    return layout._replace(
        cell_to_token=layout.cell_to_token[:1], cell_weight=layout.cell_weight[:1]
    )


@pytest.mark.slow(seconds=10)
def test_one_graph():
    torch._dynamo.reset()
    neck = MTA(**SMALL, num_outs=5, reduction="cluster", add_extra_convs="on_output")
    drawn(neck, "fan")
    compiled = torch.compile(neck, fullgraph=True, backend="aot_eager")
    expected, found = neck(released_tokens()), compiled(released_tokens())
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    sum(m.square().mean() for m in expected).backward()
    gradients = [p.grad.clone() for p in neck.parameters()]
    neck.zero_grad()
    sum(m.square().mean() for m in found).backward()
    for parameter, gradient in zip(neck.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_dropout_and_stochastic_depth_act_in_training_only():
    plain = drawn(MTA(**SMALL), "fan")(released_tokens())
    for name in ("proj_drop", "attn_drop", "drop_path"):
        neck = drawn(MTA(**SMALL, **{name: 0.5}), "fan")
        assert torch.equal(neck(released_tokens())[0], plain[0]), name
        neck.train()
        assert not torch.allclose(neck(released_tokens())[0], plain[0]), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduction": "mean"}, "reduction must be one of conv, pool, cluster"),
        ({"add_extra_convs": "on_lateral"}, "add_extra_convs must be False, True, 'on_input'"),
        ({"start_level": 4}, "start_level 4 and end_level -1 do not lie in order"),
        ({"start_level": 2, "end_level": 1}, "start_level 2 and end_level 1"),
        ({"num_heads": (1, 2)}, r"num_heads needs one value or 4, not \[1, 2\]"),
        ({"sr_ratios": 0}, "sr_ratios must be an integer from 1, not 0"),
        ({"num_outs": 0}, "num_outs must be an integer from 1, not 0"),
        ({"num_heads": 3}, "3 heads do not divide 16 channels"),
        ({"out_channels": 0}, "out_channels must be an integer from 1"),
        ({"in_channels": ()}, "in_channels must name every stage"),
    ],
)
def test_settings_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        MTA(**{**SMALL, **options})


def test_tokens_that_do_not_fit():
    neck, tokens = MTA(**SMALL), released_tokens()
    with pytest.raises(ValueError, match=r"takes the list of tokens .* not Tensor"):
        neck(torch.zeros(2, 8, 16, 24))
    with pytest.raises(ValueError, match="not a list of Tensor"):
        neck([stage.x for stage in tokens])
    with pytest.raises(ValueError, match="not Tokens"):
        neck(tokens[0])
    with pytest.raises(ValueError, match=r"the stages have \[8, 16, 24\] channels"):
        neck(tokens[:3])
    other = tokens[1]._replace(x=tokens[1].x[:1])
    with pytest.raises(ValueError, match="differ in batch size or grid"):
        neck([tokens[0], other, *tokens[2:]])
