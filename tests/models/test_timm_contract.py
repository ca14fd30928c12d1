"""What timm, and everything built on it, expects of a model."""

import pytest
import timm
import torch
from timm.models import group_parameters

import tcformer
from tcformer.models.sizes import VARIANTS


@pytest.fixture(params=["tcformer_nano", "tcformerv2_nano"])
def model(request):
    torch.manual_seed(0)
    return timm.create_model(request.param, num_classes=7).eval()


X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_all_variants_are_registered(model):
    assert set(timm.list_models("tcformer*")) >= set(VARIANTS)
    cfg = model.default_cfg
    assert cfg["input_size"] == (3, 224, 224)
    assert cfg["crop_pct"] == pytest.approx(0.875)
    assert isinstance(model.get_submodule(cfg["first_conv"]), torch.nn.Conv2d)
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    net = timm.create_model("tcformer_nano", dtype=torch.bfloat16, device="meta")
    assert all(p.dtype == torch.bfloat16 and p.is_meta for p in net.parameters())


def test_released_variants_are_listed_as_pretrained():
    released = ["tcformer.in1k", "tcformer_large.in1k", "tcformer_light.in1k"]
    assert timm.list_pretrained("tcformer*") == released


@pytest.mark.parametrize("name", VARIANTS)
def test_features_only_gives_a_pyramid(name):
    with torch.device("meta"):
        net = timm.create_model(name, features_only=True)
    assert net.feature_info.reduction() == [4, 8, 16, 32]
    channels = [32, 64, 160, 256] if name.endswith("nano") else [64, 128, 320, 512]
    assert net.feature_info.channels() == channels


@torch.no_grad()
@pytest.mark.parametrize("indices", [(0,), (3, 1), (3, 3), (-1, 0, 2), 2])
def test_maps_come_in_the_order_asked_for(indices):
    net = timm.create_model("tcformer_nano", features_only=True, out_indices=indices).eval()
    maps, taken = net(X), (2, 3) if indices == 2 else indices
    assert [m.shape[1] for m in maps] == net.feature_info.channels()
    assert [m.shape[1] for m in maps] == [(32, 64, 160, 256)[i] for i in taken]
    again = net.model.forward_intermediates(X, indices=list(taken), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(again, maps, strict=True))


@torch.no_grad()
def test_features_are_the_maps_of_the_tokens(model):
    name = model.pretrained_cfg["architecture"]
    net = timm.create_model(name, features_only=True).eval()
    missing = net.load_state_dict(
        {f"model.{k}": v for k, v in model.state_dict().items() if not k.startswith("head")},
        strict=False,
    )
    assert not missing.missing_keys
    maps = net(X)
    assert [tuple(m.shape) for m in maps] == [
        (2, 32, 16, 24), (2, 64, 8, 12), (2, 160, 4, 6), (2, 256, 2, 3),
    ]  # fmt: skip
    for a, b in zip(maps, model.forward_tokens(X), strict=True):
        torch.testing.assert_close(a, tcformer.ops.tokens_to_map(b))


@torch.no_grad()
def test_forward_intermediates(model):
    final, maps = model.forward_intermediates(X)
    assert torch.equal(final, model.forward_features(X))
    assert len(maps) == 4
    tokens = model.forward_intermediates(X, indices=1, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(tokens[0], final)
    _, early = model.forward_intermediates(X, indices=[0, 1], stop_early=True)
    assert all(map(torch.equal, early, maps))
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(X, output_fmt="NHWC")


@torch.no_grad()
def test_prune_intermediate_layers(model):
    expected = model.forward_intermediates(X, indices=[1], intermediates_only=True)
    assert model.prune_intermediate_layers([1]) == [1]
    assert not hasattr(model, "block3")
    assert torch.equal(model.forward_intermediates(X, 1, intermediates_only=True)[0], expected[0])
    assert model.num_features == 64
    assert model(X).shape == (2, 96, 64)


@torch.no_grad()
def test_head(model):
    features = model.forward_features(X)
    assert features.shape == (2, 6, 256)
    torch.testing.assert_close(model.forward_head(features), model(X))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean(1))
    torch.testing.assert_close(model.get_classifier()(pooled), model(X))
    assert model.num_features == model.head_hidden_size == 256


def test_reset_classifier(model):
    model.reset_classifier(3)
    assert model(X).shape == (2, 3)
    assert model.num_classes == 3
    model.reset_classifier(0)
    assert model(X).shape == (2, 256)
    model.reset_classifier(0, "")
    assert model(X).shape == (2, 6, 256)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(3, "catavgmax")


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("model", ["tcformer_nano"], indirect=True)
def test_group_matcher_covers_every_parameter_in_order(model, coarse):
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    named = [name for group in groups.values() for name in group]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    place = {name: number for number, group in groups.items() for name in group}
    order = ["patch_embed1.proj.weight", "block1.0.norm1.weight", "ctm1.conv.weight",
             "block2.0.norm1.weight", "block4.1.norm1.weight", "head.weight"]  # fmt: skip
    places = [place[name] for name in order]
    assert places == sorted(places)
    if not coarse:
        assert len(set(places)) == len(places)


def test_weight_decay_and_checkpointing(model):
    from timm.optim import param_groups_weight_decay

    spared, decayed = param_groups_weight_decay(
        model, 0.05, no_weight_decay_list=model.no_weight_decay()
    )
    assert all(p.ndim == 1 for p in spared["params"])
    assert all(p.ndim > 1 for p in decayed["params"])
    model.train()
    model(X).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(X).square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


@pytest.mark.parametrize(
    ("model", "channels"), [("tcformer_nano", 1), ("tcformerv2_nano", 5)], indirect=["model"]
)
def test_weights_adapt_to_channels_and_classes(model, channels, tmp_path):
    file = tmp_path / "nano.safetensors"
    tcformer.save_weights(model, file)
    net = timm.create_model(
        model.pretrained_cfg["architecture"],
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file), "num_classes": 7},
        in_chans=channels,
        num_classes=4,
    )
    assert net(torch.randn(1, channels, 32, 32)).shape == (1, 4)
    ours, theirs = net.state_dict(), model.state_dict()
    assert torch.equal(ours["block3.1.mlp.fc1.weight"], theirs["block3.1.mlp.fc1.weight"])


@pytest.mark.parametrize("options", [{"num_classes": 4}, {"features_only": True}, {}])
@pytest.mark.parametrize("model", ["tcformer_nano"], indirect=True)
def test_incomplete_weights_are_refused(model, options, tmp_path):
    from safetensors.torch import save_file

    name = model.pretrained_cfg["architecture"]
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("block3.1.")}
    save_file(weights, tmp_path / "part.safetensors")
    given = {"file": str(tmp_path / "part.safetensors"), "num_classes": 7}
    with pytest.raises(tcformer.UserError, match=r"block3\.1\."):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **options)
    headless = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    save_file(headless, tmp_path / "part.safetensors")
    net = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=given, **{"num_classes": 4, **options}
    )
    assert net is not None
