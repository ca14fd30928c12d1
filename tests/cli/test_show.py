"""`tcformer show` as people call it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tcformer import cli
from tcformer.viz import STYLES

RNG = np.random.default_rng(0)


def save(path, height, width, **options):
    blocks = RNG.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    Image.fromarray(pixels).save(path, **options)
    return path


def test_two_images_of_odd_sizes_make_one_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, seen standing
    save(tmp_path / "turned.jpg", 37, 61, exif=exif)
    save(tmp_path / "wide.png", 18, 70)
    words = ("turned.jpg", "wide.png", "--model", "tcformer_nano", "--out", "sub/a.png")
    assert cli.main(["show", *words]) == 0
    told = capsys.readouterr()
    # 61 x 37 px: 16 x 10 cells, and a quarter of the tokens (rounded up) after each stage.
    assert told.out.splitlines() == [
        "turned.jpg: 61 x 37 px, seen as 61 x 37, 160, 40, 10, 3 tokens",
        "wide.png: 18 x 70 px, seen as 18 x 70, 90, 23, 6, 2 tokens",
        "wrote sub/a.png",
    ]
    assert "weights are random" in told.err
    sheet = np.asarray(Image.open(tmp_path / "sub" / "a.png"))
    # 5 columns: 37 and 70 px wide images, enlarged 7 and 6 times, and 6 gaps.
    assert sheet.shape[1] == 5 * 6 * 70 + 6 * 12


def test_the_same_call_draws_the_same_pixels_and_a_size_is_honoured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", 40, 60)
    options = ("--model", "tcformer_nano", "--fill", "palette", "--panel-size", "100")
    sheets = []
    for size in ("32", "32", "full"):
        assert cli.main(["show", "a.png", "--out", "out.png", "--size", size, *options]) == 0
        sheets.append((tmp_path / "out.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


NANO = ("--model", "tcformer_nano", "--size", "32", "--panel-size", "64")


def test_everything_can_be_drawn_of_one_point(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", 40, 70)
    for out in ("a.png.svg", "b.png"):
        words = ["show", "a.png", *NANO, "--out", out, "--point", "50,20", "--point", "3,39"]
        words += ["--block", "1", "--head", "2", "--opacity", "50", "--draw", ",".join(STYLES)]
        assert cli.main(words) == 0
    words = (tmp_path / "a.png.svg").read_text()
    for text in (
        "a.png: 70 x 40 px, seen by tcformer_nano (random weights) at 56 x 32 px",
        *STYLES.values(),
        "block 1, 1, 1, 1 of the stages, head 1, 2, 2, 2; (50, 20)",
        "the last one at the chosen point (3, 39)",
        "stage 1: 112 tokens",
        "stage 4: 7 earlier tokens",
    ):
        assert text in words.replace("&gt;", ">"), text
    # Two points: a row of attention and one of weights for each; importance has no fourth stage.
    assert words.count("<svg x=") == (6 + 1 + 2 + 2) * 5 - 1
    assert Image.open(tmp_path / "b.png").size[0] > 5 * 64


@pytest.mark.parametrize("out", ["a.gif", "a.webp"])
def test_the_merging_moves_for_several_images(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "one.png", 40, 60)
    save(tmp_path / "two.png", 33, 32)
    args = ("one.png", "two.png", *NANO, "--out", out, "--draw", "family", "--seconds", "0.2")
    assert cli.main(["show", *args]) == 0
    with Image.open(tmp_path / out) as moving:
        assert moving.n_frames == 5 + 4 * 4
        moving.load()
        assert moving.info["duration"] == 200


def test_a_photograph_is_painted_at_its_own_resolution_and_turned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, seen standing: 90 wide, 120 high
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[:, :40] = (250, 20, 30)  # the upper third, once it stands
    pixels += RNG.integers(0, 5, pixels.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    args = ("--size", "32", "--panel-size", "full", "--no-outline", "--opacity", "0")
    assert cli.main(["show", "a.png", *args, "--model", "tcformer_nano", "--out", "o.png"]) == 0
    sheet = np.asarray(Image.open("o.png"))
    # Five panels of 90 x 120, and in each the image to the last pixel: nothing covers it.
    upright = np.rot90(pixels, -1)
    column = (sheet.shape[1] - 6 * 12) // 5
    top = np.flatnonzero((sheet[..., 0] > 200) & (sheet[..., 1] < 100))[0] // sheet.shape[1]
    for panel in range(5):
        left = 12 + panel * (column + 12) + (column - 90) // 2
        np.testing.assert_array_equal(sheet[top : top + 120, left : left + 90], upright)


@pytest.mark.parametrize("colors", ["1", "3"])
def test_networks_of_any_kind_are_shown(tmp_path, monkeypatch, colors):
    """Grey or colour, few tokens or many, V1 or V2, the backbone of a segmentation model."""
    from tcformer.models.heads import SemanticFPN
    from tcformer.zoo import create_model

    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", 40, 50)
    torch.manual_seed(0)
    if colors == "1":
        network = create_model("tcformerv2_nano", in_chans=1, num_classes=10)
    else:
        network = SemanticFPN(create_model("tcformer_nano", num_classes=0, keep_ratio=0.5), 4)
    torch.save({"model": network.state_dict()}, "weights.pth")
    args = ("--checkpoint", "weights.pth", "--point", "5,5", "--out", "o.svg")
    assert cli.main(["show", "a.png", *args]) == 0
    assert "(weights.pth) at 50 x 40 px" in (tmp_path / "o.svg").read_text()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "IMAGE"),
        (["nowhere.png"], "nowhere.png: there is no such file"),
        (["text.png"], "cannot read text.png: it is not an image"),
        (["."], "is a folder"),
        (["small.png"], "at least 16 px a side"),
        (["good.png", "--size", "9999"], "at most 1 million pixels"),
        (["good.png", "--size", "8"], "--size"),
        (["good.png", "--fill", "colour"], "--draw/--fill: there is no 'colour'"),
        (["good.png", "--draw", "famili"], "did you mean family"),
        (["good.png", "--draw", "mean,mean"], "name each once"),
        (["good.png", "--fil", "mean"], "--fill"),
        (["good.png", "--fill", "none", "--no-outline"], "draw no tokens"),
        (["good.png", "--out", "tokens.jpg"], "must end in .png, .svg, .gif or .webp, not .jpg"),
        (["good.png", "--out", "tokens"], "it has no ending"),
        (["good.png", "--out", "good.png"], "overwrite the image itself"),
        (["good.png", "--out", "good.png/a.png"], "good.png is not a folder"),
        (["good.png", "--panel-size", "0"], "--panel-size"),
        (["good.png", "--panel-size", "16385"], "--panel-size"),
        (["good.png"] * 101, "at most 100"),
        (["good.png", "--point", "20,3"], "--point of good.png: 20,3 lies outside"),
        (["good.png", "--point=-1,3"], "lies outside"),
        (["good.png", "--point", "3"], "give two numbers, X,Y"),
        (["good.png", "--point", "3,nan"], "give two numbers, X,Y"),
        (["good.png", *["--point", "1,1"] * 7], "at most 6"),
        (["good.png", "--draw", "attention"], "give --point X,Y"),
        (["good.png", "--opacity", "101"], "from 0 to 100"),
        (["good.png", "--opacity", "50", "--draw", "none"], "means nothing"),
        (["good.png", "--edge-colour", "whitish"], "colour (a name such as black"),
        (["good.png", "--stage", "2"], "--stage is for --draw family or weights"),
        (["good.png", "--stage", "0", "--draw", "family"], "--stage"),
        (["good.png", "--head", "2"], "--head is for --draw attention"),
        (["good.png", "--block", "2"], "--block is for --draw attention"),
        (["good.png", "--seconds", "2"], "tokens.png is none"),
        (["good.png", "--seconds", "0", "--out", "a.gif"], "from 0.1 to 60"),
        (["good.png", "--seconds", "nan", "--out", "a.gif"], "0.1 to 60"),
    ],
)
def test_bad_calls_are_one_sentence(tmp_path, args, words, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "good.png", 20, 20)
    save(tmp_path / "small.png", 20, 15)
    (tmp_path / "text.png").write_text("no image")
    before = sorted(tmp_path.iterdir()), (tmp_path / "good.png").read_bytes()
    assert cli.main(["show", *args]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert words in errors
    assert errors.strip().count("\n") == 0
    assert (sorted(tmp_path.iterdir()), (tmp_path / "good.png").read_bytes()) == before


def test_a_mistake_is_answered_without_loading_torch(tmp_path):
    code = "import sys; from tcformer.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    save(tmp_path / "good.png", 20, 20)
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "good.png", "--point", "99,99"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "lies outside" in done.stderr
    assert "tcformer.viz" in done.stdout.split()
    assert "torch" not in done.stdout.split()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "tcformer_nanno"], "tcformer_nano"),
        (["--model", "pvt_v2_b0"], "merges no tokens"),
        (["--checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["--checkpoint", "text.png"], "text.png"),
        (["--checkpoint", "text.png", "--pretrained"], "choose one"),
        ([*NANO, "--device", "cuda:99"], "cuda"),
        (["--model", "tcformer_nano", "--panel-size", "16384"], "smaller --panel-size"),
        (["--model", "tcformer_nano", "--panel-size", "8000", "--out", "a.gif"], "and 25 is"),
        ([*NANO, "--draw", "family", "--stage", "5"], "tcformer_nano has 4 stages"),
        ([*NANO, "--point", "1,1", "--stage", "1"], "weights need 2 or more"),
        ([*NANO, "--point", "1,1", "--block", "3"], "have 2, 2, 2, 2 blocks"),
        ([*NANO, "--point", "1,1", "--head", "9"], "have 1, 2, 5, 8 heads"),
    ],
)
def test_bad_models_are_one_sentence(tmp_path, args, words, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "good.png", 20, 20)
    (tmp_path / "text.png").write_text("no weights")
    assert cli.main(["show", "good.png", *args]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert words in errors[-1]
    assert errors[-1].startswith("error: ")
    assert all(line.startswith("note: ") for line in errors[:-1])
    assert not (tmp_path / "tokens.png").exists()
