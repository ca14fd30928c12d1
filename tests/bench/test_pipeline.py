"""Images a second of the input pipeline."""

import pytest
from PIL import Image

from tcformer.bench import pipeline, tables
from tcformer.data.spec import DECODERS
from tcformer.errors import UserError


@pytest.fixture(autouse=True)
def _few_files(monkeypatch):
    monkeypatch.setattr(pipeline, "NUM_DRAWN", 3)
    monkeypatch.setattr(pipeline, "DRAWN_SIZE", (80, 60))


def measure(folder=None, **options):
    with pipeline.files(folder) as source:
        return pipeline.measure(source, size=32, rounds=2, images=2, **options), source.paths


def test_every_decoder_on_drawn_files():
    row, paths = measure(needed=1e9, model="giant")
    assert not any(path.exists() for path in paths)
    assert set(row["decoders"]) | set(row["missing"]) == set(DECODERS)
    pil = row["decoders"]["pil"]
    assert pil["decode"]["median"] > 0
    assert pil["decode_and_transform"]["median"] > 0
    assert pil["processes_needed"] > row["cores"]
    assert "the model would wait" in tables.pipeline(row)[-1]


def test_one_process_may_feed_a_slow_model_and_an_unknown_one_gives_no_verdict():
    assert tables.pipeline(measure(needed=0.001, model="slow")[0])[-1].endswith("feeds it")
    assert "feed" not in "".join(tables.pipeline(measure()[0]))


def test_a_folder(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.jpg")
    assert measure(tmp_path)[0]["files"] == 1
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.jpg"):
        measure(tmp_path)


def test_a_decoder_that_is_missing_is_named(monkeypatch):
    def require(decoder):
        if decoder == "torchvision":
            raise UserError("no extension")

    monkeypatch.setattr(pipeline, "require_decoder", require)
    assert measure()[0]["missing"] == {"torchvision": "no extension"}
