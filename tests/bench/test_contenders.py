"""Names of contenders, who is compared with whom, and the steps that are timed."""

import pytest
import torch

from tcformer.bench import contenders
from tcformer.bench.contenders import Contender, Setting, groups, parse
from tcformer.errors import UserError

CPU = torch.device("cpu")


def test_traits():
    assert parse("tcformer+compile") == Contender("tcformer", ("compile",))
    assert parse("pvt_v2_b2").label == "pvt_v2_b2"
    assert parse("tcformer_nano+published+compile").label == "tcformer_nano+published+compile"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tcformer_lihgt", "tcformer_light"),
        ("pvt_v2_b9", "did you mean pvt_v2_b"),
        ("swin_tny_patch4_window7_224", "did you mean swin_tiny_patch4_window7_224"),
        ("tcformer+compiel", r"\+compile"),
        ("resnet50+published", "tcformer_light"),
        ("tcformerv2_base+published", "tcformer_light"),
        ("tcformerv2_base+published", r"exists for tcformer_nano, .*tcformer_large only"),
        ("xyzzy", "neither here nor in timm"),
    ],
)
def test_what_does_not_exist_is_a_sentence(text, says):
    with pytest.raises(UserError, match=says):
        parse(text)


def labels(*args, **kwargs):
    return [([c.label for c in chosen], base) for chosen, base in groups(*args, **kwargs)]


def test_default_pairs():
    assert labels([], None) == [
        (["tcformer", "pvt_v2_b2"], "pvt_v2_b2"),
        (["tcformer_light", "pvt_v2_b1"], "pvt_v2_b1"),
    ]
    assert labels([], None, ["compile"])[1][1] == "pvt_v2_b1+compile"


@pytest.mark.parametrize(
    ("names", "against", "expected", "base"),
    [
        (["tcformer_light"], None, ["tcformer_light", "pvt_v2_b1"], "pvt_v2_b1"),
        (["resnet50", "tcformer"], None, ["resnet50", "tcformer", "pvt_v2_b2"], "pvt_v2_b2"),
        (["resnet50", "pvt_v2_b1"], None, ["resnet50", "pvt_v2_b1"], "pvt_v2_b1"),
        (["tcformer", "pvt_v2_b2"], "tcformer", ["tcformer", "pvt_v2_b2"], "tcformer"),
        ([], "resnet50", ["tcformer", "resnet50"], "resnet50"),
        (["tcformer+compile", "tcformer"], None, ["tcformer+compile", "tcformer"], "tcformer"),
        (
            ["tcformer+compile"],
            None,
            ["tcformer+compile", "pvt_v2_b2+compile"],
            "pvt_v2_b2+compile",
        ),
        (["tcformer+published"], None, ["tcformer+published", "pvt_v2_b2"], "pvt_v2_b2"),
        (["tcformerv2_base"], None, ["tcformerv2_base", "pvt_v2_b2"], "pvt_v2_b2"),
    ],
)
def test_the_baseline(names, against, expected, base):
    assert labels(names, against) == [(expected, base)]


def test_every_model_of_ours_has_a_pvt_of_its_widths_and_depths():
    import timm

    from tcformer.models.sizes import VARIANTS

    assert set(contenders.PARTNERS) == set(VARIANTS)
    for ours, theirs in contenders.PARTNERS.items():
        with torch.device("meta"):
            one, other = timm.create_model(ours), timm.create_model(theirs)
        widths = [info["num_chs"] for info in one.feature_info]
        assert widths == [info["num_chs"] for info in other.feature_info]
        assert list(one.depths) == list(other.depths)


def test_one_model_alone_cannot_be_compared():
    with pytest.raises(UserError, match="second model"):
        groups(["resnet50"], None)


def test_graphs_need_cuda_and_inference():
    one = parse("tcformer_nano+graph")
    with pytest.raises(UserError, match="--device cuda"):
        contenders.check_possible(one, Setting(CPU))
    with pytest.raises(UserError, match="inference"):
        contenders.check_possible(one, Setting(torch.device("cuda"), mode="training"))


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_a_training_step_moves_the_weights(dtype):
    setting = Setting(CPU, "training", 2, 32, dtype, channels_last=True)
    inputs = [torch.randn(2, 3, 32, 32) for _ in range(2)]
    ready = contenders.prepare(parse("tcformer_nano"), setting, inputs)
    before = [p.detach().clone() for p in ready.model.parameters()]
    ready.step(0)
    after = list(ready.model.parameters())
    moved = [not torch.equal(b, a) for b, a in zip(before, after, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def test_an_inference_step_takes_its_inputs_in_turn_at_the_precision_asked_for():
    inputs = [torch.randn(1, 3, 32, 32) for _ in range(2)]
    ready = contenders.prepare(parse("pvt_v2_b0"), Setting(CPU, "inference", 1, 32, "bf16"), inputs)
    out = ready.step(0)
    assert out.dtype == torch.bfloat16
    assert not torch.equal(out, ready.step(1))
    assert torch.equal(out, ready.step(2))


def test_weights_that_were_cast_before_give_the_same_numbers():
    inputs = [torch.randn(2, 3, 64, 64)]
    setting = Setting(CPU, "inference", 2, 64, "bf16")
    for name in ("tcformer_nano", "pvt_v2_b0"):
        plain, cast = (
            contenders.prepare(parse(label), setting, inputs) for label in (name, f"{name}+cast")
        )
        assert next(cast.model.parameters()).dtype == torch.bfloat16
        assert torch.equal(plain.step(0), cast.step(0))


@pytest.mark.parametrize("setting", [Setting(CPU), Setting(CPU, "training", dtype="bf16")])
def test_nothing_to_cast(setting):
    with pytest.raises(UserError, match="inference in bf16 or fp16"):
        contenders.check_possible(parse("tcformer_nano+cast"), setting)


def test_everybody_gets_the_same_seed():
    setting = Setting(CPU, size=32)
    one, two = (contenders.create(parse("tcformer_nano"), setting) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_tf32_lasts_for_the_step_only(monkeypatch):
    seen = []
    step = contenders._with_tf32(lambda call: seen.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    step(0)
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before
