"""Local CTM in the network: counts, order of tokens, options, and what V1's weights are to it."""

import subprocess
import sys

import pytest
import timm
import torch

import tcformer
from tcformer.models import TCFormer
from tcformer.models.sizes import V1, V2


def images(batch=1, height=96, width=96):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def runs_are_parts(tokens, grids):
    """Cutting the tokens into runs gives tokens whose cells all lie in one part of the grid."""
    rows, columns = tokens.layout.grid_size
    y = torch.arange(rows)[:, None].expand(rows, columns).flatten()
    x = torch.arange(columns).expand(rows, columns).flatten()
    run = tokens.layout.cell_to_token[0] * grids[0] * grids[1] // tokens.layout.num_tokens
    return torch.equal(run, y * grids[0] // rows * grids[1] + x * grids[1] // columns)


@torch.no_grad()
def test_tokens_stay_inside_parts_and_in_their_order():
    # Two parts a side have the same order nested and row by row; four have not: ask for 2x2.
    stages = tcformer.create_model("tcformerv2_nano", part_grids=(2, 2, 2)).forward_tokens(images())
    assert [t.layout.part_grids for t in stages] == [((1, 1),), *[((2, 2), (1, 1))] * 3]
    assert all(runs_are_parts(tokens, (2, 2)) for tokens in stages[1:])
    stages = tcformer.create_model("tcformerv2_nano").forward_tokens(images())
    assert stages[1].layout.part_grids == ((4, 4), (2, 2), (1, 1))
    assert runs_are_parts(stages[1], (2, 2))
    assert runs_are_parts(stages[2], (2, 2))
    assert not runs_are_parts(stages[3], (2, 2))  # the last merge is over the whole image
    assert stages[3].layout.part_grids == ((1, 1),)


@pytest.mark.parametrize(
    ("height", "width", "counts"),
    [
        (200, 168, [2100, 512, 128, 32]),  # 525, 132: rounded down to multiples of 16 and 4
        (20, 20, [25, 4, 1, 1]),  # too small for 4x4: 2x2, then the whole
        (16, 200, [200, 48, 12, 3]),
        (4, 4, [1, 1, 1, 1]),
    ],
)
@torch.no_grad()
def test_every_image_has_the_same_exact_number_of_tokens(height, width, counts):
    model = tcformer.create_model("tcformerv2_nano").eval()
    for tokens, count in zip(model.forward_tokens(images(2, height, width)), counts, strict=True):
        assert tokens.x.shape[1] == tokens.layout.num_tokens == count
        for cells in tokens.layout.cell_to_token:
            assert cells.unique().numel() == count


@torch.no_grad()
def test_one_part_is_v1():
    torch.manual_seed(0)
    one = tcformer.create_model("tcformer_nano", num_classes=4).eval()
    two = tcformer.create_model("tcformerv2_nano", num_classes=4, part_grids=1).eval()
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(images()), two(images()))


@pytest.mark.parametrize(("old", "new"), list(zip(V1, V2, strict=True)))
def test_the_weights_of_v1_fit(old, new):
    with torch.device("meta"):
        shapes, ours = (
            {key: value.shape for key, value in tcformer.create_model(n).state_dict().items()}
            for n in (old, new)
        )
    assert list(shapes.items()) == list(ours.items())


@torch.no_grad()
def test_the_weights_of_v1_load_strictly_and_make_another_model(tmp_path):
    torch.manual_seed(0)
    one, two = (tcformer.create_model(f"tcformer{v}_nano").eval() for v in ("", "v2"))
    tcformer.save_weights(one, tmp_path / "v1.safetensors")
    assert tcformer.load_checkpoint(two, tmp_path / "v1.safetensors").complete
    assert (one(images()) - two(images())).abs().max() > 1e-3 * one(images()).std()


@torch.no_grad()
def test_options_by_timm():
    model = timm.create_model(
        "tcformerv2_nano", num_clusters=(100, 40, 7), k=3, part_grids=((2, 4), (1, 2), 1)
    )
    assert [t.layout.num_tokens for t in model.forward_tokens(images())] == [576, 96, 40, 7]
    assert [getattr(model, f"ctm{i}").rule.k for i in (1, 2, 3)] == [3] * 3
    few = timm.create_model("tcformer_nano", num_clusters=1000)
    assert [t.layout.num_tokens for t in few.forward_tokens(images(1, 32, 32))] == [64] * 4
    more = timm.create_model("tcformerv2_nano", keep_ratio=0.5, features_only=True)
    assert more.model.ctm1.rule.keep_ratio == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_ratio": 0.25, "num_clusters": 9}, "give one"),
        ({"num_clusters": 0}, "num_clusters must be an integer from 1"),
        ({"num_clusters": (9, 9)}, "num_clusters needs one value or 3"),
        ({"keep_ratio": 1.5}, "keep_ratio must lie in"),
        ({"keep_ratio": (0.5, None, 0.5)}, "keep_ratio must lie in"),
        ({"part_grids": (4, 2, None)}, "two positive integers"),
        ({"part_grids": (4, 3, 1)}, "does not divide"),
        ({"part_grids": (4, 2)}, "part_grids needs one value or 3"),
        ({"part_grids": 0}, "two positive integers"),
        ({"part_grids": ("4x4", "2x2", "1x1")}, "two positive integers"),
    ],
)
def test_refuses_impossible_options(options, words):
    with pytest.raises(ValueError, match=words):
        TCFormer(**options)


@pytest.mark.parametrize(
    ("name", "hint"), [("light", "of tcformer_light, which fit"), ("nano", "")]
)
def test_there_are_no_pretrained_weights(name, hint):
    with pytest.raises(ValueError, match=f"no released weights for tcformerv2_{name}.*{hint}") as e:
        timm.create_model(f"tcformerv2_{name}", pretrained=True)
    assert "\n" not in str(e.value)


PEAK = """
import sys, torch, tcformer
def peak():  # of this program alone; ru_maxrss begins with what its parent had
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
side = int(sys.argv[1])
model = tcformer.create_model("tcformerv2_nano", num_classes=10).eval()
with torch.inference_mode():
    model(torch.randn(1, 3, 64, 64))  # what is loaded and built once
    before = peak()
    model(torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_grows_with_the_pixels():
    def peak(side):
        command = [sys.executable, "-c", PEAK, str(side)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(found.stdout) / side**2

    # Distances of every cell to every other would make it 16 times as much a pixel.
    assert peak(1024) < 1.5 * peak(512)
