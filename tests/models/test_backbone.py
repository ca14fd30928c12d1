import copy

import pytest
import torch

import tcformer
from tcformer.models import TCFormer


@pytest.fixture(scope="module", params=["tcformer_nano", "tcformerv2_nano"])
def model(request):
    torch.manual_seed(0)
    return tcformer.create_model(request.param, num_classes=10).eval()


def images(batch=2, height=64, width=64, channels=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, (height + 7) // 8, (width + 7) // 8, generator=g)
    fine = torch.randn(batch, channels, height, width, generator=g)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") + 0.1 * fine


def assert_sound(tokens, height, width):
    """Every stage covers the grid with tokens that each own a cell."""
    grid = (-(-height // 4), -(-width // 4))
    size = grid
    for x, layout in tokens:
        assert layout.grid_size == grid
        assert layout.map_size == size
        assert x.shape[1] == layout.num_tokens
        assert x.isfinite().all()
        for cells in layout.cell_to_token:
            assert cells.unique().tolist() == list(range(layout.num_tokens))
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)


@pytest.mark.parametrize(
    ("height", "width"),
    [(16, 17), (19, 160), (28, 28), (33, 65), (97, 50)],
)
@torch.no_grad()
def test_any_size(model, height, width):
    x = images(2, height, width)
    assert_sound(model.forward_tokens(x), height, width)
    assert model(x).shape == (2, 10)
    strides = [tuple(m.shape[2:]) for m in model.forward_intermediates(x, intermediates_only=True)]
    assert strides[0] == (-(-height // 4), -(-width // 4))


def test_refuses_what_is_no_batch_of_images(model):
    for shape in ((0, 3, 32, 32), (2, 1, 32, 32), (3, 32, 32), (1, 3, 0, 32)):
        with pytest.raises(ValueError, match=r"shape \(B, 3, height, width\), .* not \("):
            model(torch.zeros(shape))


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch_mates(model):
    x = images(4)
    others = images(4, seed=1) * 5
    others[2] = x[2]
    assert torch.equal(model(x)[2], model(others)[2])
    for one, many in zip(model.forward_tokens(x[[2]]), model.forward_tokens(x), strict=True):
        assert torch.equal(one.layout.cell_to_token[0], many.layout.cell_to_token[2])
        torch.testing.assert_close(one.x[0], many.x[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(37, 91), (96, 96)])
@torch.no_grad()
def test_nor_does_a_flat_image_or_a_half_flat_one(model, size):
    x = images(4, *size)
    x[1] = torch.tensor([0.3, -1.2, 0.8])[:, None, None]
    x[2, :, : size[0] // 2] = -2.0
    together = model.forward_tokens(x)
    assert_sound(together, *size)
    for b in range(4):
        for one, many in zip(model.forward_tokens(x[[b]]), together, strict=True):
            assert torch.equal(one.layout.cell_to_token[0], many.layout.cell_to_token[b])
            torch.testing.assert_close(one.x[0], many.x[b], rtol=0, atol=1e-4)


@torch.no_grad()
def test_flat_bands_do_not_swallow_the_tokens():
    torch.manual_seed(0)
    model = tcformer.create_model("tcformer_nano").eval()
    x = torch.zeros(1, 3, 320, 96)
    x[:, :, 128:192] = images(1, 64, 96)
    layout = model.forward_tokens(x)[1].layout
    rows = layout.cell_to_token[0].view(80, 24)
    # A fifth of the picture is photograph; without the tie-break by index every cell of the flat
    # bands would be a peak of its own and take a centre.
    inner_bands = torch.cat((rows[3:27], rows[53:77])).unique().numel()
    assert inner_bands < 0.1 * layout.num_tokens


def test_same_bits_forward_and_backward(model):
    net = copy.deepcopy(model).train()
    gradients = []
    for _ in range(2):
        net.zero_grad()
        net(images()).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model, dtype, monkeypatch):
    net = copy.deepcopy(model).train()
    x = images()
    # With the clusters of float32: rounding may swap two centres that are nearly tied (which ones
    # depends on PyTorch's products in half precision), and that has nothing to do with precision.
    expected = with_clusters(monkeypatch, found := [], lambda: model(x))
    with torch.autocast("cpu", dtype=dtype):
        logits = with_clusters(monkeypatch, found, lambda: net(x))
        loss = logits.float().square().mean()
        tokens = net.forward_tokens(x)
    loss.backward()
    assert logits.dtype == dtype
    assert all(t.layout.cell_weight.dtype == torch.float32 for t in tokens)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert (logits.float() - expected).abs().max() < 0.2 * expected.std()


def with_clusters(monkeypatch, found, run):
    """Run a network: with the clusters that ``found`` holds, or else note those it finds there."""
    import tcformer.models.tcformer as ctm

    real, given = ctm.cluster_windows, iter(found)
    note = not found

    def cluster(x, *args, **kwargs):
        assert (x.dtype, torch.is_autocast_enabled("cpu")) == (torch.float32, False)
        if not note:
            return next(given)
        found.append(real(x, *args, **kwargs))
        return found[-1]

    with monkeypatch.context() as patch:
        patch.setattr(ctm, "cluster_windows", cluster)
        return run()


@torch.no_grad()
def test_the_level_of_the_scores_is_inert_and_large_ones_stay_finite(model):
    net = copy.deepcopy(model)
    for stage in (1, 2, 3):
        getattr(net, f"ctm{stage}").score.bias.add_(5.0)
    torch.testing.assert_close(net(images()), model(images()), rtol=0, atol=2e-5)
    for stage in (1, 2, 3):
        getattr(net, f"ctm{stage}").score.weight.mul_(1e4)
    assert net(images()).isfinite().all()


@torch.no_grad()
def test_float64_runs_in_float64_throughout(model):
    net = copy.deepcopy(model).double()
    exact = net(images().double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(model(images()).double(), exact, rtol=0, atol=1e-5)


def test_options_reach_their_places():
    net = tcformer.create_model(
        "tcformer_nano", keep_ratio=(0.5, 0.3, 1.0), k=3, density_noise=1e-6, drop_path_rate=0.7
    )
    counts = [t.layout.num_tokens for t in net.forward_tokens(images(1, 32, 32))]
    assert counts == [64, 32, 10, 10]
    assert [net.ctm1.rule.k, net.ctm2.density_noise] == [3, 1e-6]
    rates = [
        getattr(b.drop_path, "drop_prob", 0.0) for s in "1234" for b in getattr(net, f"block{s}")
    ]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.7, 8))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"keep_ratio": 0.0}, "keep_ratio"),
        ({"keep_ratio": (0.5, 0.5)}, "keep_ratio needs"),
        ({"k": 0}, "k must be"),
        ({"depths": (1, 1, 1)}, "depths needs 4"),
        ({"num_heads": (3, 2, 5, 8)}, "do not divide"),
        ({"global_pool": "max"}, "global_pool"),
    ],
)
def test_refuses_impossible_options(option, words):
    with pytest.raises(ValueError, match=words):
        TCFormer(**option)


def test_any_number_of_channels():
    for channels in (1, 13):
        net = tcformer.create_model("tcformer_nano", in_chans=channels, num_classes=3)
        assert net(images(2, 32, 32, channels)).shape == (2, 3)


def test_unknown_options_and_models_are_refused():
    with pytest.raises(TypeError, match="keep_ration"):
        tcformer.create_model("tcformer_nano", keep_ration=0.5)
    with pytest.raises(ValueError, match="did you mean tcformer_nano"):
        tcformer.create_model("tcformer_tiny")


def test_initial_weights_have_the_published_spread():
    torch.manual_seed(0)
    net = tcformer.create_model("tcformer_light")
    expected = {
        "patch_embed1.proj": 0.0253,
        "block1.0.attn.q": 0.02,
        "block1.0.attn.sr": 0.0221,
        "block2.0.attn.sr": 0.0313,
        "block3.0.attn.sr": 0.0395,
        "ctm1.conv": 0.0417,
        "ctm2.conv": 0.0264,
        "ctm3.conv": 0.0208,
        "block2.0.mlp.dwconv": 0.4714,
        "block1.0.mlp.dwconv.dwconv": 0.4714,
        "block2.0.mlp.dwconv.skip": 0.577,
        "head": 0.02,
    }
    for name, std in expected.items():
        assert float(net.get_submodule(name).weight.detach().std()) == pytest.approx(std, rel=0.06)
    assert float(net.ctm1.conv.skip.weight.detach().abs().max()) <= 0.125
