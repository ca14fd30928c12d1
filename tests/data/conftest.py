import io
import tarfile

import numpy as np
import pytest
from PIL import Image


def _picture(seed, size=(20, 14)):
    rows = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3))
    return Image.fromarray(rows.astype(np.uint8))


def _encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture():
    """picture(seed, size=(w, h)): an RGB image of noise."""
    return _picture


@pytest.fixture
def encode():
    """encode(image, "JPEG", ...): the bytes of an image file."""
    return _encode


@pytest.fixture
def write_tar():
    """write_tar(path, [(name, content), ...]): an archive of these files."""

    def write(path, members, form=tarfile.PAX_FORMAT):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=form) as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    """folder({"train": {"cat": 3}}): an ImageFolder tree of PNG files; returns its root."""

    def make(splits, size=(20, 14)):
        seed = 0
        for split, classes in splits.items():
            for name, count in classes.items():
                place = tmp_path / "set" / split / name
                place.mkdir(parents=True)
                for number in range(count):
                    (place / f"{number:02d}.png").write_bytes(_encode(_picture(seed, size)))
                    seed += 1
        return tmp_path / "set"

    return make
