"""Every layer can be pruned, parametrized, watched, adapted and replaced by other tools."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import tcformer
from tcformer.models import SemanticFPN
from tcformer.models.heads import TopDownPose
from tcformer.models.layers import LayerNorm
from tcformer.models.tcformer import Attention


def small(name, num_classes=0):
    """Both kinds of token blocks, with and without tokens of the stage before, in few layers."""
    return tcformer.create_model(name, num_classes=num_classes, depths=(1, 2, 1, 1))


def semantic(reduction):
    backbone = small("tcformerv2_nano")
    return SemanticFPN(backbone, 5, neck_channels=32, channels=32, reduction=reduction)


MAKERS = {
    "tcformer_nano": lambda: small("tcformer_nano", 5),
    "semantic_conv": lambda: semantic("conv"),
    "semantic_linear": lambda: semantic("cluster_linear"),
    "pose": lambda: TopDownPose(small("tcformer_nano"), 5, neck_channels=32),
}
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=MAKERS)
def net(request):
    torch.manual_seed(0)
    return MAKERS[request.param]().eval()


def layers_of(net):
    """All modules that have parameters of their own, by name."""
    return {n: m for n, m in net.named_modules() if any(True for _ in m.parameters(recurse=False))}


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hooks_see_every_layer(net):
    expected, seen = net(X), []
    for name, layer in layers_of(net).items():
        layer.register_forward_pre_hook(lambda m, i, n=name: seen.append(("before", n)))
        layer.register_forward_hook(lambda m, i, o, n=name: seen.append(("after", n)))
    same(net(X), expected)
    assert set(seen) == {(when, n) for when in ("before", "after") for n in layers_of(net)}


def test_hooks_see_every_gradient(net):
    expected, seen = net(X), []
    for name, layer in layers_of(net).items():
        layer.register_full_backward_hook(lambda m, i, o, n=name: seen.append(n))
    actual = net(X)
    same(actual, expected)
    actual.square().sum().backward()
    assert set(seen) == set(layers_of(net))


def test_pruning_goes_on_after_its_first_step(net):
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    for amount in (0.2, 0.3):
        for layer in layers_of(net).values():
            prune.random_unstructured(layer, "weight", amount)
        net(X).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        pruned = net(X)
        for layer in layers_of(net).values():
            assert (layer.weight == 0).float().mean() > 0.3 or layer.weight.numel() < 40
            prune.remove(layer, "weight")
        same(net(X), pruned)


class Factor(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, weight):
        return weight * self.factor


def test_parametrizations_are_computed_and_trained(net):
    expected = net(X)
    layers = layers_of(net)
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", Factor())
    actual = net(X)
    same(actual, expected)
    actual.square().sum().backward()
    for name, layer in layers.items():
        gradient = layer.parametrizations.weight[0].factor.grad
        assert gradient.isfinite(), name  # and not None
    with torch.no_grad():
        same(net(X), expected)


@torch.no_grad()
@pytest.mark.parametrize("how", ["another forward", "another module"])
def test_what_takes_the_place_of_a_layer_is_called(net, how):
    class Around(nn.Module):
        def __init__(self, layer, name):
            super().__init__()
            self.layer, self.name = layer, name

        def forward(self, *args):
            seen.append(self.name)
            return self.layer(*args)

    expected, seen = net(X), []
    names = list(layers_of(net))
    for name in reversed(names):  # a skip before the convolution around it
        parent, _, last = name.rpartition(".")
        layer = net.get_submodule(name)
        if how == "another module":
            setattr(net.get_submodule(parent), last, Around(layer, name))
        else:
            layer.forward = Around(copy.copy(layer), name).forward
    same(net(X), expected)
    assert set(seen) == set(names)


def test_adapters_get_a_gradient(net):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    expected = net(X).detach()
    # peft adapts no norms, and convolutions by groups only where the rank is their multiple.
    names = [
        name
        for name, layer in layers_of(net).items()
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and getattr(layer, "groups", 1) == 1
    ]
    skips = [name for name in names if name.endswith(".skip")]
    others = [name for name in names if name not in skips]
    for targets in (others, skips):  # one is inside the other, which peft cannot do at once
        adapted = peft.get_peft_model(
            copy.deepcopy(net), peft.LoraConfig(r=2, target_modules=targets)
        )
        actual = adapted(X)
        same(actual.detach(), expected)
        actual.square().sum().backward()
        gradients = {n: p.grad for n, p in adapted.named_parameters() if "lora_B" in n}
        assert len(gradients) == len(targets)
        for name, gradient in gradients.items():
            assert gradient.isfinite().all(), name  # and not None
            assert gradient.abs().max() > 0 or "score" in name, name


def test_gradients_of_norms_under_bfloat16_are_those_of_float32():
    torch.manual_seed(0)
    x, weight = torch.randn(8, 3136, 64), torch.randn(8, 3136, 64)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        norm = LayerNorm(64, eps=1e-6)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = norm((x + 3 * weight.sign()).to(dtype))
        assert out.dtype == dtype
        (out.float() * (weight + 0.1)).sum().backward()
        gradients.append((norm.weight.grad, norm.bias.grad))
    for exact, found in zip(*gradients, strict=True):
        assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("name", ["tcformer_nano", "tcformer_light"])
def test_every_norm_is_the_exact_one_and_has_the_published_eps(name):
    with torch.device("meta"):
        model = tcformer.create_model(name)
    norms = {path: m for path, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    assert len(norms) > 20
    for path, norm in norms.items():
        assert type(norm) is LayerNorm
        wide = path == "patch_embed1.norm" or path.endswith("attn.norm") or path.startswith("ctm")
        assert norm.eps == (1e-5 if wide else 1e-6), path


@torch.no_grad()
def test_reduced_keys_do_not_see_trailing_rows_and_columns():
    torch.manual_seed(0)
    attention = Attention(8, 2, sr_ratio=4)
    x = torch.randn(1, 8, 9, 14)  # two windows of four rows, three of four columns
    keys = attention.reduce(x)
    x[:, :, 8:] += 1
    x[:, :, :, 12:] += 1
    assert torch.equal(attention.reduce(x), keys)
    x[:, :, 7] += 1
    assert not torch.equal(attention.reduce(x), keys)
    assert keys.shape == (1, 2 * 3, 8)


@torch.no_grad()
@pytest.mark.parametrize("map_size", [(3, 9), (9, 3), (3, 3), (9, 11)])
def test_a_watched_reduction_takes_maps_smaller_than_its_window(map_size):
    torch.manual_seed(0)
    attention, x = Attention(8, 2, sr_ratio=4), torch.randn(2, 8, *map_size)
    expected = attention.reduce(x)
    attention.sr.register_forward_hook(lambda *call: None)
    same(attention.reduce(x), expected)
