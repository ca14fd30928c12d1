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


def test_every_decoder_on_drawn_files():
    with pipeline.files(None) as source:
        paths = source.paths
        row = pipeline.measure(source, size=32, rounds=2, images=3, needed=1e9, model="giant")
    assert not any(path.exists() for path in paths)
    assert set(row["decoders"]) | set(row["missing"]) == set(DECODERS)
    pil = row["decoders"]["pil"]
    assert pil["decode"]["median"] > 0
    assert pil["decode_and_transform"]["median"] > 0
    assert pil["processes_needed"] > row["cores"]
    assert "the model would wait" in tables.pipeline(row)[-1]
    assert "pil" in "\n".join(tables.pipeline(row))


def test_one_process_may_feed_a_slow_model():
    with pipeline.files(None) as source:
        row = pipeline.measure(source, size=32, rounds=2, images=3, needed=0.001, model="slow")
    assert tables.pipeline(row)[-1].endswith("1 process feeds it")


def test_a_model_that_could_not_be_measured_gives_no_verdict():
    with pipeline.files(None) as source:
        row = pipeline.measure(source, size=32, rounds=2, images=2)
    assert "feed" not in "".join(tables.pipeline(row))


def test_a_folder(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.jpg")
    Image.new("RGB", (50, 40)).save(tmp_path / "b.png")
    with pipeline.files(tmp_path) as source:
        assert len(source) == 2
        assert pipeline.measure(source, size=32, rounds=2, images=2)["files"] == 2


def test_an_unreadable_file_is_a_sentence(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with (
        pipeline.files(tmp_path) as source,
        pytest.raises(UserError, match=r"a\.jpg"),
    ):
        pipeline.measure(source, size=32, rounds=2, images=2)


def test_a_decoder_that_is_missing_is_named(monkeypatch):
    def require(decoder):
        if decoder == "torchvision":
            raise UserError("no extension")

    monkeypatch.setattr(pipeline, "require_decoder", require)
    with pipeline.files(None) as source:
        row = pipeline.measure(source, size=32, rounds=2, images=2)
    assert row["missing"] == {"torchvision": "no extension"}
