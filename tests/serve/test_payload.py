"""What the browser gets is what the network did: maps, sizes, colours, families, predictions."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tcformer import viz
from tcformer.errors import UserError
from tcformer.serve import networks, payload, pictures
from tcformer.serve.payload import PAINTS, VIEWS, Look, page_data

PICTURE = np.random.default_rng(0).integers(0, 256, (38, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def shelf():
    shelf = networks.Networks(networks.entries(["tcformer_nano", "tcformerv2_nano"], []))
    for label in shelf.labels:
        shelf.get(label)
    return shelf


def data_of(shelf, labels=None, **look):
    labels = shelf.labels if labels is None else labels
    text = page_data("it", PICTURE, [(label, shelf.get(label)) for label in labels], Look(**look))
    return json.loads(text)


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def picture(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_the_data_are_those_of_the_network(shelf):
    data = data_of(shelf)
    assert data["original"] == [38, 50]
    assert [view["label"] for view in data["views"]] == shelf.labels
    for view, label in zip(data["views"], shelf.labels, strict=True):
        loaded = shelf.get(label)
        with torch.inference_mode():
            tokens = loaded.backbone.forward_tokens(loaded.preprocessing.normalize(PICTURE))
            shares = loaded.backbone.forward_head(tokens[-1].x)[0].softmax(-1)
        assert view["size"] == [38, 50]
        assert view["grid"] == [10, 13]
        assert view["random"] is True
        for stage, layout in zip(view["stages"], [each.layout for each in tokens], strict=True):
            cells = layout.cell_to_token[0].numpy()
            assert (unpacked(stage["map"], "<u2") == cells).all()
            assert stage["count"] == layout.num_tokens
            assert (unpacked(stage["cells"], "<u4") == np.bincount(cells)).all()
            painted = viz.paint_tokens(PICTURE, cells, scale=view["scale"])
            assert (picture(stage["painted"]) == painted).all()
        assert [share for _, share in view["top"]] == pytest.approx(
            shares.topk(5).values.tolist(), abs=1e-6
        )
        assert view["top"][0][0] == loaded.classes[int(shares.argmax())]


def test_a_token_goes_where_its_cells_go(shelf):
    stages = data_of(shelf)["views"][0]["stages"]
    maps = [unpacked(stage["map"], "<u2") for stage in stages]
    for stage, here, later in zip(stages, maps, maps[1:], strict=False):
        assert (unpacked(stage["into"], "<u2")[here] == later).all()
    assert stages[-1]["into"] == ""


def test_colors_are_means_over_the_token_and_each_way_to_paint_differs(shelf):
    views = {paint: data_of(shelf, shelf.labels[1:], paint=paint)["views"][0] for paint in PAINTS}
    stage = views[PAINTS[0]]["stages"][-1]
    tokens = viz.pixel_tokens(unpacked(stage["map"], "<u2"), (38, 50))
    colors = unpacked(stage["colours"], "u1").reshape(-1, 3)
    for token in np.unique(tokens):
        mean = PICTURE[tokens == token].mean(axis=0)
        assert np.abs(colors[token] - mean).max() <= 0.5
    assert len({view["stages"][2]["painted"] for view in views.values()}) == len(PAINTS)


def test_the_center_crop_is_what_evaluation_sees_and_predicts(shelf):
    label = shelf.labels[1]
    loaded = shelf.get(label)
    seen, batch = payload.seen(loaded, PICTURE, Look(view=VIEWS[1]))
    assert seen.shape == (224, 224, 3)
    assert torch.equal(batch[0], loaded.preprocessing(Image.fromarray(PICTURE)))
    assert (loaded.preprocessing.normalize(seen) - batch).abs().max() < 0.01  # rounded to 8 bits
    best = loaded.predict(PICTURE).guesses
    shown = data_of(shelf, [label], view=VIEWS[1])["views"][0]["top"]
    assert [name for name, _ in shown] == [guess.name for guess in best]
    assert [share for _, share in shown] == pytest.approx([g.probability for g in best], abs=1e-6)


def test_examples_are_pictures_and_those_that_cannot_be_drawn_are_left_out(monkeypatch):
    def missing(*_):
        raise UserError("scikit-learn is not installed")

    assert list(pictures.examples()) == ["house", "person", "shapes", "digits on canvas", "a digit"]
    monkeypatch.setattr("tcformer.data.builtin.DigitScenesSource", missing)
    found = pictures.examples.__wrapped__()
    assert list(found) == ["house", "person", "shapes"]
    assert {(picture.dtype.name, picture.ndim) for picture in found.values()} == {("uint8", 3)}
