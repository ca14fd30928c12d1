"""Pictures of every kind, and folders of every size."""

from __future__ import annotations

import io
import os
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tcformer.errors import UserError
from tcformer.images import LeftOut, UnreadableImageError
from tcformer.predict import Picture, read_picture, sources
from tcformer.predict.sources import each_picture, walk

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def no_report(name, reason):
    raise AssertionError(f"{name}: {reason}")


def as_png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_every_way_to_hand_over_a_picture_gives_the_same_pixels(tmp_path):
    """`tests/test_images.py` has the kinds of files."""
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.png")
    gray = PIXELS[:, :, 0]
    spread = np.repeat(gray[..., None], 3, axis=2)
    clear = np.dstack([spread, np.full_like(gray, 255)])
    clear[0, 0] = 0, 0, 0, 0  # paper, not the color that somebody left under it
    wide = (gray.astype(np.uint16) << 8) + 7  # scaled, not clipped
    for pixels, ways in (
        (PIXELS, (tmp_path / "a.png", str(tmp_path / "a.png"), as_png(image), image, PIXELS,
                  Image.open(tmp_path / "a.png"), np.asfortranarray(PIXELS),
                  torch.tensor(PIXELS), torch.tensor(PIXELS).permute(2, 0, 1))),
        (spread, (gray, gray[..., None], Image.fromarray(gray).convert("P"), wide)),
        ((spread > 50) * 255, (gray > 50,)),
        (np.where(clear[..., 3:] > 0, spread, 255), (clear,)),
    ):  # fmt: skip
        for way in ways:
            assert np.array_equal(np.asarray(read_picture(way)), pixels), type(way)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("nowhere.png", "no such file"),
        (b"", "empty"),
        (as_png(Image.fromarray(PIXELS))[:60], "truncated|incomplete|broken"),
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 5), np.uint8), r"\(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(3, 4, 4), "before any normali.ation"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "floating-point"),
        (3, "int is no picture"),
    ],
)
def test_what_is_no_picture_is_said(bad, words):
    with pytest.raises(UnreadableImageError, match=words):
        read_picture(bad)


def test_several_kinds_at_once_are_named(tmp_path, save_picture):
    save_picture(tmp_path / "folder" / "b.png")
    save_picture(tmp_path / "folder" / "a" / "c.JPG")
    save_picture(tmp_path / "x.png")
    several = [tmp_path / "folder", PIXELS, str(tmp_path / "x.png"), Picture("mine", PIXELS)]
    names = [name for name, _ in each_picture(iter(several), no_report)]
    assert names == [
        *(f"{tmp_path}/folder/a/c.JPG", f"{tmp_path}/folder/b.png"),
        *("image 1", f"{tmp_path}/x.png", "mine"),
    ]
    assert [name for name, _ in each_picture(PIXELS, no_report)] == ["image 0"]
    assert len(list(each_picture(np.stack([PIXELS, PIXELS]), no_report))) == 2
    with pytest.raises(UserError, match="is no picture"):
        list(each_picture(3, no_report))


def test_a_folder_is_walked_in_the_order_of_paths_without_what_is_no_image(tmp_path):
    wanted = ["a b.png", "a.jpg", "a/1.png", "a/10.png", "a/2.webp", "a/deep/er/x.BMP", "b.tif"]
    wanted += [os.fsdecode(b"c\xff.png"), "d\ne.png", "ä.png"]
    wanted += ["e.gif", "f.AVIF", "g.jp2", "h.jfif"]
    others = ["a.txt", ".hidden.png", ".git/a.png", "a/._1.png", "png", "__MACOSX/a.png"]
    for name in wanted + others:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    left_out = LeftOut()
    paths = walk(str(tmp_path), no_report, left_out)
    assert [os.path.relpath(path, tmp_path) for path in paths] == sorted(wanted, key=os.fsencode)
    assert ".txt 1" in str(left_out)
    assert "4 hidden" in str(left_out)


def test_links_are_followed_but_not_in_circles(tmp_path):
    inside, outside = tmp_path / "top", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.png").touch()
    (inside / "link").symlink_to(outside)
    (inside / "b.png").symlink_to(outside / "a.png")
    (inside / "up").symlink_to(inside)
    (inside / "self").symlink_to(inside / "self")
    told = []
    found = list(walk(str(inside), lambda *what: told.append(what)))
    assert found == [f"{inside}/b.png", f"{inside}/link/a.png"]
    assert told == [(f"{inside}/up", "the link leads back to a folder above it")]


def test_crossing_links_end(tmp_path):
    for level in range(12):  # 2^12 ways to the last folder
        (tmp_path / f"{level}").mkdir()
        for side in "ab":
            (tmp_path / f"{level}" / side).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "x.png").touch()
    told = []
    found = list(walk(str(tmp_path / "0"), lambda *what: told.append(what)))
    assert 0 < len(found) <= 100
    assert "more than 100 places" in told[0][1]


@settings(max_examples=40)
@given(
    names=st.lists(st.binary(min_size=1, max_size=9).filter(lambda n: b"\0" not in n)),
    most=st.integers(1, 5),
)
def test_long_lists_are_sorted_through_a_file(names, most):
    assert list(sources._in_order(iter(names), most)) == sorted(names)


def test_memory_does_not_grow_with_the_length_of_a_list():
    names = (b"%032x.png" % (i * 2654435761 % 2**32) for i in range(20_000))
    tracemalloc.start()
    assert sum(1 for _ in sources._in_order(names, 1000)) == 20_000
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < 500_000  # a list of so many names would take two megabytes
