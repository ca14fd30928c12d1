"""Three lines of Python, and streams of any length."""

from __future__ import annotations

import itertools
import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tcformer
from tcformer.errors import UserError
from tcformer.predict import Loaded, Preprocessing, load, predict_each

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 60, 40, 3), dtype=np.uint8)


def test_three_lines(weights, tmp_path, save_picture):
    save_picture(tmp_path / "cat.png")
    model = tcformer.load(weights)
    prediction = model.predict(tmp_path / "cat.png")
    lines = str(prediction).splitlines()
    assert lines[0] == f"{tmp_path}/cat.png"
    assert len(lines) == 4  # all classes, as there are fewer than five
    assert sum(guess.probability for guess in prediction.guesses) == pytest.approx(1)
    assert prediction.best.name in lines[1]


def test_the_guesses_are_the_networks(model):
    with torch.inference_mode():
        inputs = torch.stack([model.preprocessing(Image.fromarray(p)) for p in PIXELS])
        expected = model.network(inputs).softmax(1)
    for one, row in zip(model.predict(list(PIXELS), topk=2), expected, strict=True):
        best = row.topk(2)
        assert [g.index for g in one.guesses] == best.indices.tolist()
        assert [g.name for g in one.guesses] == [model.classes[i] for i in best.indices]
        shares = [g.probability for g in one.guesses]
        assert shares == pytest.approx(best.values.tolist(), abs=1e-6)


def test_neither_batch_size_nor_threads_change_anything(model, tmp_path, save_picture):
    paths = [save_picture(tmp_path / f"{i}.png", (40 + i, 50)) for i in range(7)]
    results = [
        [p.as_dict() for p in predict_each(model, tmp_path, batch_size=size, workers=workers)]
        for size, workers in ((1, 0), (3, 0), (7, 3), (2, 5))
    ]
    assert all(result == results[0] for result in results)
    assert [p["image"] for p in results[0]] == [str(path) for path in paths]


def test_at_the_usual_size_not_even_the_last_bit_depends_on_the_batch():
    model = load("tcformer_nano")
    alone = [model.predict(picture) for picture in PIXELS]
    together = list(model.predict_each(PIXELS, batch_size=4))
    assert [a.guesses for a in alone] == [t.guesses for t in together]


def test_an_unreadable_picture_stops_or_is_told(model, tmp_path, save_picture):
    save_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    save_picture(tmp_path / "c.png")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*b\.png"):
        list(model.predict_each(tmp_path))
    with pytest.raises(UserError, match="image 1: it is an array"):
        model.predict([PIXELS[0], np.zeros(3)])
    told = []
    several = [tmp_path, tmp_path / "gone.png", tmp_path / "none", PIXELS[0], None]
    found = model.predict_each(several, unreadable=lambda name, reason: told.append(name))
    assert [os.path.basename(p.image) for p in found] == ["a.png", "c.png", "image 3"]
    names = sorted(os.path.basename(name) for name in told)
    assert names == ["b.png", "gone.png", "image 4", "none"]


def test_an_endless_stream_is_read_as_it_is_asked_for(model):
    read = []

    def endless():
        for i in itertools.count():
            read.append(i)
            yield PIXELS[i % 4]

    stream = model.predict_each(endless(), batch_size=2, workers=1)
    first = list(itertools.islice(stream, 5))
    assert [p.image for p in first] == [f"image {i}" for i in range(5)]
    assert len(read) < 20
    stream.close()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_is_used(model, amp):
    plain, mixed = model.predict(PIXELS[0]), model.predict(PIXELS[0], amp=amp)
    assert {g.index: g.probability for g in plain.guesses} == pytest.approx(
        {g.index: g.probability for g in mixed.guesses}, abs=0.05
    )
    assert plain != mixed


def test_bad_calls_are_one_sentence(model, tmp_path):
    for options, words in (
        ({"topk": 4}, "knows 3 classes"),
        ({"topk": 0}, "knows 3 classes"),
        ({"batch_size": 0}, "--batch-size"),
        ({"workers": -1}, "--workers"),
        ({"amp": "half"}, "--amp"),
    ):
        with pytest.raises(UserError, match=words):
            model.predict_each(PIXELS, **options)
    with pytest.raises(UserError, match="predict_each takes folders"):
        model.predict(tmp_path)
    with pytest.raises(UserError, match="is no picture"):
        model.predict(7)


def stub(network):
    return Loaded(network, "stub", "classification", Preprocessing(16), ("a", "b"))


def test_scores_that_are_no_numbers_are_no_answer():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    network[2].bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="scores for image 0 are not finite"):
        stub(network).predict(PIXELS[0])


def test_memory_does_not_grow_with_the_folder(tmp_path, save_picture):
    save_picture(tmp_path / "a.png", (16, 16))
    for i in range(1600):
        folder = tmp_path / "many" / f"{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "a.png", folder / f"{i:07}.png")
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    stream = predict_each(stub(network), tmp_path / "many", workers=2)

    def peak(count):
        tracemalloc.start()
        assert sum(1 for _ in itertools.islice(stream, count)) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(200)
    early, late = peak(200), peak(1200)
    assert next(stream, None) is None
    # Measured growth: 85 to 111 kB when results are dropped, 534 kB when they are kept.
    assert late < early + 250_000
