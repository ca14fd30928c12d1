"""`tcformer show` as people call it."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tcformer import cli
from tcformer.cli import show

RNG = np.random.default_rng(0)


def run(*args, cwd, timeout=120):
    return subprocess.run(
        [sys.executable, "-m", "tcformer", "show", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def save(path, height, width, **options):
    blocks = RNG.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    Image.fromarray(pixels).save(path, **options)
    return path


def test_two_images_of_odd_sizes_make_one_sheet(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, seen standing
    save(tmp_path / "turned.jpg", 37, 61, exif=exif)
    save(tmp_path / "wide.png", 18, 70)
    done = run(
        "turned.jpg", "wide.png", "--model", "tcformer_nano", "--out", "sub/a.png", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    # 61 x 37 px: 16 x 10 cells, and a quarter of the tokens (rounded up) after each stage.
    assert done.stdout.splitlines() == [
        "turned.jpg: 61 x 37 px, seen as 61 x 37, 160, 40, 10, 3 tokens",
        "wide.png: 18 x 70 px, seen as 18 x 70, 90, 23, 6, 2 tokens",
        "wrote sub/a.png",
    ]
    assert "weights are random" in done.stderr
    assert "Traceback" not in done.stderr
    sheet = np.asarray(Image.open(tmp_path / "sub" / "a.png"))
    # 5 columns: 37 and 70 px wide images, enlarged 7 and 6 times, and 6 gaps.
    assert sheet.shape[1] == 5 * 6 * 70 + 6 * 12


def test_the_same_call_draws_the_same_pixels_and_a_size_is_honoured(tmp_path):
    save(tmp_path / "a.png", 40, 60)
    sheets = []
    for size in ("32", "32", "full"):
        status = show.main(
            [
                *(str(tmp_path / "a.png"), "--out", str(tmp_path / "out.png")),
                *("--model", "tcformer_nano", "--size", size),
                *("--fill", "palette", "--panel-size", "100"),
            ]
        )
        assert status == 0
        sheets.append((tmp_path / "out.png").read_bytes())
    assert sheets[0] == sheets[1]
    assert sheets[0] != sheets[2]


@pytest.mark.parametrize(
    ("original", "size", "seen"),
    [
        ((480, 640), None, (224, 299)),
        ((100, 90), None, (100, 90)),
        ((100, 90), 224, (249, 224)),
        ((1000, 900), "full", (1000, 900)),
        ((64, 64), 32, (32, 32)),
    ],
)
def test_the_short_side_follows_size_and_the_aspect_is_kept(original, size, seen):
    assert show._seen_size(original, size) == seen


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "IMAGE"),
        (["nowhere.png"], "nowhere.png: there is no such file"),
        (["text.png"], "text.png is not an image"),
        (["."], "is a folder"),
        (["small.png"], "at least 16 on each side"),
        (["good.png", "--size", "9999"], "give a smaller --size"),
        (["good.png", "--size", "8"], "--size"),
        (["good.png", "--fill", "colour"], "--fill"),
        (["good.png", "--fil", "mean"], "--fill"),
        (["good.png", "--fill", "none", "--no-outline"], "draw no tokens"),
        (["good.png", "--out", "tokens.jpg"], "must end in .png"),
        (["good.png", "--out", "good.png"], "overwrite the image itself"),
        (["good.png", "--panel-size", "0"], "--panel-size"),
        (["good.png"] * 101, "at most 100"),
    ],
)
def test_bad_calls_are_one_sentence(tmp_path, args, words):
    save(tmp_path / "good.png", 20, 20)
    save(tmp_path / "small.png", 20, 15)
    (tmp_path / "text.png").write_text("no image")
    before = (tmp_path / "good.png").read_bytes()
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert (tmp_path / "good.png").read_bytes() == before
    assert not (tmp_path / "tokens.png").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "tcformer_nanno"], "tcformer_nano"),
        (["--checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["--checkpoint", "text.png"], "text.png"),
    ],
)
def test_bad_models_are_one_sentence(tmp_path, args, words, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "good.png", 20, 20)
    (tmp_path / "text.png").write_text("no weights")
    assert cli.main(["show", "good.png", *args]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert words in errors
    assert errors.strip().count("\n") == 0
