"""The one place where files become pixels: bounded, strict, and no programs."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zlib

import numpy as np
import pytest
import torch
from image_kinds import kinds
from PIL import EpsImagePlugin, Image, ImageFile

from tcformer import images
from tcformer.errors import UserError
from tcformer.files import read_whole
from tcformer.images import (
    FORMATS,
    IMAGE_EXTENSIONS,
    MOST_SCANS,
    LeftOut,
    TooManyPixelsError,
    UnknownImageError,
    UnreadableImageError,
    decode_labels,
    decode_strictly,
    is_hidden,
    is_hidden_path,
    read_image,
    resize_image,
    seen_size,
    to_rgb,
    unnormalize,
)
from tcformer.viz import write_png

Image.init()  # all formats, not only the usual ones
NOISE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8))


def encoded(kind, image=NOISE, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_postscript_is_never_run(monkeypatch):
    def run(*_, **__):
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    program = encoded("EPS")
    with Image.open(io.BytesIO(program)) as image, pytest.raises(AssertionError, match="called"):
        image.load()  # what Pillow alone would do with it
    with pytest.raises(UnknownImageError, match="PostScript program, which is not run"):
        decode_strictly(program, to_rgb)


@pytest.mark.parametrize("kind", ["PCX", "TGA", "SGI", "ICO", "DDS"])
def test_other_formats_are_not_opened(kind):
    with pytest.raises(UnknownImageError, match="not an image of a known format"):
        decode_strictly(encoded(kind), to_rgb)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    data = encoded("PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)  # Pillow alone would only warn
    with pytest.raises(TooManyPixelsError, match="30 x 20 pixels, and more than 599 could be"):
        decode_strictly(data, lambda _: pytest.fail("it was opened"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(TooManyPixelsError, match="decompression bomb"):
        decode_strictly(data, to_rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert decode_strictly(data, to_rgb).size == (30, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_strictly(data, to_rgb).size == (30, 20)


@pytest.mark.parametrize("kind", [k for k in FORMATS if k != "MPO" and k in Image.SAVE])
def test_no_format_is_used_beyond_the_bound(kind, monkeypatch):
    data = encoded(kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    for use in (lambda _: pytest.fail("it was opened"), to_rgb):
        with pytest.raises(TooManyPixelsError):
            decode_strictly(data, use)
    with pytest.raises(TooManyPixelsError):
        decode_labels(data)


BOMB = """
import resource, sys
from PIL import Image
from tcformer.errors import UserError
from tcformer.files import read_whole
from tcformer.images import UnreadableImageError, decode_strictly, to_rgb
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        decode_strictly(read_whole(name), to_rgb)
    except UnreadableImageError as error:
        assert "decompression bomb" in str(error), error
    else:
        raise SystemExit(f"{name} was decoded")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_cost_no_memory(tmp_path):
    side = 13000  # 169 million pixels, which Pillow alone would decode with a warning
    png, gif = (bytearray(encoded(kind, Image.new("L", (64, 64)))) for kind in ("PNG", "GIF"))
    png[16:24] = struct.pack(">II", side, side)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    gif[6:10] = struct.pack("<HH", side, side)
    (tmp_path / "bomb.png").write_bytes(png)
    (tmp_path / "bomb.gif").write_bytes(gif)
    command = [sys.executable, "-c", BOMB, *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MiB


def test_a_jpeg_of_a_thousand_passes_is_refused():
    data = encoded("JPEG", progressive=True)
    passes = data.count(b"\xff\xda")
    assert 5 < passes < 20
    assert decode_strictly(data, to_rgb).size == (30, 20)
    last = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + last * (MOST_SCANS + 1 - passes) + data[-2:]
    with pytest.raises(TooManyPixelsError, match="200 passes"):
        decode_strictly(many, to_rgb)


def test_the_tolerant_mode_is_off_for_every_thread_and_given_back(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    half = encoded("PNG")[:900]
    refused = []

    def read():
        for _ in range(20):
            try:
                decode_strictly(half, to_rgb)
            except UnreadableImageError:
                refused.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 80
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_first_that_is_done_does_not_make_the_others_tolerant(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    first, second = images._no_tolerance(), images._no_tolerance()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    second.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_whole_files_only_ordinary_ones(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_whole(tmp_path / "a") == b"abc"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for name, words in [
        ("pipe", "not an ordinary file"),
        ("loop", "symbolic links"),
        ("none", "No such file"),
        (".", "it is a folder"),
        ("a/b", "Not a directory"),
        ("a\0b", "no file can have this name"),
        ("\ud800", "no file can have this name"),
        ("n" * 300, "name too long"),
    ]:
        with pytest.raises(OSError) as caught:
            read_whole(tmp_path / name)
        assert words in caught.value.strerror, name
    with pytest.raises(OSError, match="3 bytes, more than 2"):
        read_whole(tmp_path / "a", most=2)
    if open_files:
        assert len(os.listdir("/proc/self/fd")) == open_files


def test_every_ending_of_a_known_format_is_in_the_list():
    known = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    assert known - {".pfm"} <= set(IMAGE_EXTENSIONS)
    assert all(ending == ending.lower() for ending in IMAGE_EXTENSIONS)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("._a.jpg", True), (".DS_Store", True), (".ipynb_checkpoints", True), ("__MACOSX", True),
        ("@eaDir", True), ("Thumbs.db", True), ("desktop.ini", True), ("a.jpg", False),
        ("__init__", False), ("_a.jpg", False), ("macosx", False),
    ],
)  # fmt: skip
def test_hidden_names(name, hidden):
    assert is_hidden(name) is hidden
    assert is_hidden_path(f"./x/{name}/../y.jpg") is hidden


def test_what_is_left_out_is_one_line():
    left_out = LeftOut()
    assert str(left_out) == ""
    wanted = [name for name in ("a.JPG", "b.heic", "c.txt", "d.txt", "e") if left_out.wants(name)]
    assert wanted == ["a.JPG"]
    assert left_out.hides(".git")
    for part in ("4 files", ".txt 2", ".heic 1", "1 hidden"):
        assert part in str(left_out)


KINDS = kinds()


def one_class(root, kind):
    """The file as the only one of class c in a validation set; returns it."""
    file = root / "val" / "c" / f"a.{kind.ending}"
    file.parent.mkdir(parents=True)
    file.write_bytes(kind.data)
    return file


def archived(root, kind, fields):
    root.mkdir()
    with tarfile.open(root / "val.tar", "w") as tar:
        for name, data in {f"c/a.{kind.ending}": kind.data, **fields}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def data_set(name, decoder="pil"):
    def read(root, kind):
        from tcformer.data import DataSpec, build_dataset

        if "tar" in name or "wds" in name:
            archived(root, kind, {"c/a.cls": b"0"} if "wds" in name else {})
        else:
            one_class(root, kind)
        folder = root / "val" if name == "timm:torch/image_folder" else root
        (item,) = build_dataset(DataSpec(str(folder), name, decoder=decoder), "val")
        return item.image if decoder == "pil" else item.image.permute(1, 2, 0)

    return read


def segmentation(root, kind):
    from tcformer.data.segmentation import Ade20kSource

    for folder in ("images", "annotations"):
        (root / folder / "validation").mkdir(parents=True)
    (root / "images/validation" / f"a.{kind.ending}").write_bytes(kind.data)
    labels = Image.fromarray(np.ones(kind.pixels.shape[:2], np.uint8))
    labels.save(root / "annotations/validation/a.png")
    return Ade20kSource(str(root), "val").read(0)[0]


def pose(root, kind):
    from tcformer.data.keypoints import layout
    from tcformer.data.keypoints.people import Subject, _Files

    file = one_class(root, kind)
    points = np.ones((133, 2))
    subject = Subject(1, 1, np.ones(4), points, points[:, 0], 1.0)
    return _Files(layout("coco_wholebody"), file.parent, {1: file.name}, [subject], LeftOut()).read(
        0
    )


def predict(root, kind):
    from tcformer.images import read_picture
    from tcformer.predict.sources import each_picture

    one_class(root, kind)
    (found,) = each_picture(root, pytest.fail)
    opened = read_picture(Image.open(found.source))
    assert np.array_equal(opened, read_picture(found.source))
    return opened


def confusion(root, kind):
    from tcformer.images import read_picture
    from tcformer.predict import labeled_folder

    one_class(root, kind)
    return read_picture(labeled_folder(root).describe(0))


def show(root, kind):
    from tcformer.viz import read_image

    return read_image(one_class(root, kind))


def serve(root, kind):
    from tcformer.serve.pictures import Picture, decode

    return decode(Picture("a", kind.data))


def export(root, kind):
    from tcformer.export.making import read_pictures

    return read_pictures([one_class(root, kind)], kind.pixels.shape[:2])[0]


READERS = {
    "evaluate": data_set("IMNET"),
    "evaluate, torchvision": data_set("IMNET", "torchvision"),
    "timm's folders": data_set("timm:folder"),
    "timm's tar": data_set("timm:tar"),
    "shards": data_set("timm:wds/a"),
    "torchvision's folders": data_set("timm:torch/image_folder"),
    **{f.__name__: f for f in (segmentation, pose, predict, confusion, show, serve, export)},
}


@pytest.mark.parametrize("reader", READERS)
def test_everything_sees_the_same_pixels(reader, tmp_path):
    for number, (name, kind) in enumerate(KINDS.items()):
        found = np.asarray(READERS[reader](tmp_path / str(number), kind))
        assert np.array_equal(found, kind.pixels), name


@pytest.mark.parametrize(
    ("original", "size", "seen"),
    [
        ((38, 50), None, (38, 50)),
        ((400, 600), None, (224, 336)),
        ((400, 600), "full", (400, 600)),
        ((400, 600), 100, (100, 150)),
        ((40, 60), 100, (100, 150)),
    ],
)
def test_the_size_that_is_seen(original, size, seen):
    assert seen_size(original, size, 224) == seen


def test_sizes_that_do_not_do():
    for size, short in (((224, 20000), None), ((4000, 3000), "full"), ((15, 20), None)):
        with pytest.raises(UserError, match="at least 16 px a side and at most 1 million pixels"):
            seen_size(size, short, 224)


def test_bad_files_are_named_with_the_reason(tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        whole, "JPEG"
    )
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[: whole.tell() // 2])
    for name, words in {
        "nowhere.png": "there is no such file",
        "": "it is a folder",
        "notes.png": "not an image of a known format",
        "half.jpg": "truncated",
    }.items():
        with pytest.raises(UserError, match=f"cannot read .*{name}: .*{words}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_unnormalise_undoes_normalisation(channels, batch):
    pixels = np.random.default_rng(0).integers(0, 256, (*batch, 5, 7, channels), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    inputs = torch.from_numpy(np.moveaxis(pixels / 255.0, -1, -3).astype(np.float32))
    inputs = (inputs - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels
    np.testing.assert_array_equal(unnormalize(inputs, mean=mean, std=std), expected)


def test_unnormalise_clips_and_takes_half_precision():
    inputs = torch.tensor([-3.0, 0.5, 9.0], dtype=torch.bfloat16).expand(3, 1, 3)
    assert unnormalize(inputs)[0, :, 0].tolist() == [0, 128, 255]


def test_unnormalise_refuses_what_is_no_network_input():
    with pytest.raises(UserError, match="network inputs"):
        unnormalize(np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match="2 values for 3 channels"):
        unnormalize(np.zeros((3, 4, 4)), mean=(0.5, 0.5))


def test_png_is_written_with_its_folders_and_exactly(tmp_path):
    path = tmp_path / "a" / "b" / "picture.png"
    write_png(path, np.asarray(NOISE))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(NOISE))
    first = path.read_bytes()
    write_png(path, np.asarray(NOISE))
    assert path.read_bytes() == first
    assert os.listdir(path.parent) == ["picture.png"]


def test_other_formats_and_blocked_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.png"):
        write_png(tmp_path / "picture.jpg", np.asarray(NOISE))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        write_png(tmp_path / "file" / "picture.png", np.asarray(NOISE))


def test_resize_gives_the_size_asked_for():
    assert resize_image(np.asarray(NOISE), (11, 5)).shape == (11, 5, 3)
    np.testing.assert_array_equal(resize_image(np.asarray(NOISE), (20, 30)), np.asarray(NOISE))
