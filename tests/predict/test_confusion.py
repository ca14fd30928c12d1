"""Truth against answer: the numbers, the names, and who is kept to be looked at."""

import csv
import io
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tcformer.errors import UserError
from tcformer.predict import (
    Confusion,
    Loaded,
    Preprocessing,
    confusion_matrix,
    evaluate,
    labeled_folder,
    match_classes,
    wilson,
)

# ---- the matrix -------------------------------------------------------------------------------


def test_rows_are_truths_and_columns_answers():
    found = confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 0], 3)
    assert found.counts.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert (found.pictures, found.right) == (6, 3)
    assert found.accuracy == 0.5
    assert found.mean_recall == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)
    row = found.per_class()[0]
    assert (row.pictures, row.answered, row.right) == (2, 3, 1)
    assert (row.recall, row.precision, row.f1) == pytest.approx((1 / 2, 1 / 3, 2 / 5))


def test_names_arrays_and_tensors_say_the_same():
    truths, answers = ["a", "b", "b"], ["b", "b", "a"]
    by_name = confusion_matrix(truths, answers, ["a", "b"])
    numbers = [["ab".index(name) for name in names] for names in (truths, answers)]
    for kind in (np.array, torch.tensor, list):
        by_number = confusion_matrix(*map(kind, numbers), ["a", "b"])
        assert by_number.counts.tolist() == by_name.counts.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("truths", "answers", "classes", "told"),
    [
        ([0, 1], [0], 2, "2 truths and 1 answers"),
        ([0, 2], [0, 1], 2, "2 is no class"),
        ([0, -1], [0, 1], 2, "-1 is no class"),
        (["a"], ["c"], ["a", "b"], "'c' is none of the 2 classes"),
        (["a"], ["a"], ["a", "a"], "same name"),
        ([0.5], [0], 2, "whole numbers or names"),
        ([[0]], [[0]], 2, "a class for each picture"),
        ([], [], [], "no array"),
    ],
)
def test_what_is_no_class_is_refused(truths, answers, classes, told):
    with pytest.raises(UserError, match=told):
        confusion_matrix(truths, answers, classes)


def test_of_no_pictures_nothing_is_claimed():
    found = confusion_matrix([], [], 2)
    assert found.accuracy is found.interval is found.mean_recall is None
    assert found.mistakes() == []
    assert list(found.classes_csv())[1] == "0,class 0,0,0,0,,,,,,,\n"


def test_wilsons_interval():
    # R: prop.test(x, n, correct = FALSE)$conf.int
    for hits, of, low, high in (
        (10, 10, 0.7224672, 1.0),
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
    ):
        assert wilson(hits, of) == pytest.approx((low, high), abs=1e-6)
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="no share"):
        wilson(2, 1)


def test_mistakes_come_by_their_number_and_ties_in_the_order_of_the_classes():
    found = Confusion(np.array([[9, 1, 2], [2, 9, 0], [1, 2, 9]]), ("a", "b", "c"))
    assert found.mistakes() == [(0, 2, 2), (1, 0, 2), (2, 1, 2), (0, 1, 1), (2, 0, 1)]
    assert found.mistakes(2) == found.mistakes()[:2]


def test_tables_are_csv_whatever_a_class_is_called():
    names = ('say "A", B', "line\nbreak", "grün, 犬", "same", "same")
    found = Confusion(np.diag([1, 2, 3, 4, 5]), names)
    head, *rows = csv.reader(io.StringIO("".join(found.matrix_csv()), newline=""))
    assert head[1:] == [row[0] for row in rows] == [*names[:3], "same (3)", "same (4)"]
    assert [list(map(int, row[1:])) for row in rows] == found.counts.tolist()
    table = list(csv.DictReader(io.StringIO("".join(found.classes_csv()), newline="")))
    assert [row["name"] for row in table] == list(names)
    assert {row["recall"] for row in table} == {"1.0000"}


# ---- folders and classes ----------------------------------------------------------------------


class Brightest(nn.Module):
    """Scores are the mean levels of red, green and blue."""

    def forward(self, images):
        return 4 * images.mean(dim=(2, 3))


COLORS = ("red", "green", "blue")


def brightest(names=COLORS, **changed):
    plain = Preprocessing(8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    given = {"named": bool(names), "recorded": tuple(names), "source": "colours.pth"}
    classes = tuple(names) or tuple(f"class {i}" for i in range(3))
    return Loaded(
        Brightest(), "brightest", "classification", plain, classes, **{**given, **changed}
    )


def paint(path, *levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), levels).save(path)


@pytest.fixture
def colors(tmp_path):
    """Two right reds, a red called green, a right blue, two greens called red."""
    paint(tmp_path / "val/red/1.png", 200, 0, 0)
    paint(tmp_path / "val/red/2.png", 250, 0, 0)
    paint(tmp_path / "val/red/3.png", 0, 90, 0)
    paint(tmp_path / "val/blue/1.png", 0, 0, 200)
    paint(tmp_path / "val/green/1.png", 240, 0, 0)
    paint(tmp_path / "val/green/2.png", 240, 0, 0)
    return tmp_path


def asked(folder, loaded=None, **options):
    loaded = loaded or brightest()
    source = labeled_folder(folder)
    matching = match_classes(loaded, source.classes, str(source.root))
    return evaluate(loaded, source, matching, workers=0, **options)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_picture_is_counted_in_its_class(colors, batch_size):
    each = []
    found = asked(colors, batch_size=batch_size, each=each.append)
    # Folders are sorted (blue, green, red), the network's classes are not.
    assert found.confusion.counts.tolist() == [[2, 1, 0], [2, 0, 0], [0, 0, 1]]
    assert [answer.right for answer in each] == [True, False, False, True, True, False]
    assert found.unread == 0


def test_the_folder_itself_serves_too(colors, monkeypatch):
    monkeypatch.chdir(colors / "val")
    found = asked(".")
    assert found.confusion.counts.tolist() == asked(colors).confusion.counts.tolist()
    assert found.wrong[0].image.endswith("/val/green/1.png")


def test_the_most_confident_are_kept_and_ties_go_to_the_first(colors):
    found = asked(colors, keep=2)
    assert [answer.image[-11:] for answer in found.wrong] == ["green/1.png", "green/2.png"]
    one, other = found.wrong
    assert one.probability == other.probability > one.truth_probability > 0
    # Of the right ones each class in turn, though both reds are surer than the blue or as sure.
    assert [answer.image[-10:] for answer in found.right] == ["/red/2.png", "blue/1.png"]
    assert asked(colors, keep=0).wrong == asked(colors, keep=0).right == []


def test_unreadable_pictures(colors):
    (colors / "val/red/0.png").write_bytes(b"nonsense")
    (colors / "val/green/9.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"green/9.jpg: the file is empty"):
        asked(colors)
    told = []
    found = asked(colors, unreadable=lambda name, reason: told.append(name[-9:]))
    assert told == ["een/9.jpg", "red/0.png"]
    assert found.unread == 2
    assert found.confusion.counts.tolist() == [[2, 1, 0], [2, 0, 0], [0, 0, 1]]


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        labeled_folder(tmp_path / "missing")
    paint(tmp_path / "data/train/a/1.png", 0, 0, 0)
    paint(tmp_path / "other/val/1.png", 0, 0, 0)
    assert labeled_folder(tmp_path / "other").classes == ["val"]  # a class may be called so
    with pytest.raises(UserError, match="must be a folder"):
        labeled_folder(tmp_path / "data/train/a/1.png")
    with pytest.raises(UserError, match="holds train/ and no val/"):
        labeled_folder(tmp_path / "data")
    with pytest.raises(UserError, match="no class folders"):
        labeled_folder(tmp_path / "data/train/a")
    (tmp_path / "data/train/b").mkdir()
    with pytest.raises(UserError, match=r"class folder .*/b has no image"):
        labeled_folder(tmp_path / "data/train")


# ---- which score stands for which folder ------------------------------------------------------


def test_names_decide_not_the_order_and_classes_without_pictures_are_noted():
    found = match_classes(brightest(), ["blue", "green", "red"], "pictures")
    assert (found.places, found.names, found.notes) == ((2, 1, 0), COLORS, ())
    found = match_classes(brightest(), ["blue"], "pictures")
    assert found.places == (2,)
    assert found.notes == (
        "2 of the 3 classes of colours.pth have no pictures in pictures: red, green",
    )


def test_an_unknown_class_is_an_error_that_names_the_nearest():
    with pytest.raises(UserError, match="'Red'; did you mean 'red'") as error:
        match_classes(brightest(), ["Red", "blue", "green"], "pictures")
    assert "1 of the 3 classes of pictures" in str(error.value)


def test_unicode_has_two_spellings_of_one_name():
    composed = unicodedata.normalize("NFC", "grün")
    apart = unicodedata.normalize("NFD", composed)
    for recorded, folder in ((composed, apart), (apart, composed)):
        found = match_classes(brightest(("red", recorded, "blue")), [folder], "pictures")
        assert found.places == (1,)
    with pytest.raises(UserError, match="two ways of Unicode"):
        match_classes(brightest(("red", composed, "blue")), [apart, composed], "pictures")


def test_weights_without_names_go_by_the_order_if_all_classes_are_there():
    silent = brightest(())
    found = match_classes(silent, ["a", "b", "c"], "pictures")
    assert (found.places, found.words) == ((0, 1, 2), ("a", "b", "c"))
    assert "in their order" in found.notes[0]
    with pytest.raises(UserError, match="records no names for its 3 classes"):
        match_classes(silent, ["a", "b"], "pictures")


def test_imagenets_folders_are_known_to_networks_of_a_thousand_classes():
    from tcformer.predict.classes import class_names

    words, _ = class_names(None, 1000)
    silent = Loaded(nn.Identity(), "any", "classification", Preprocessing(), words)
    found = match_classes(silent, ["n01440764", "n15075141", "n01443537"], "val")
    assert found.places == (0, 999, 1)
    assert found.words[1].startswith("goldfish")
    recorded = tuple(reversed(found.names))
    turned = Loaded(
        nn.Identity(), "any", "classification", Preprocessing(), class_names(recorded, 1000)[0],
        named=True, recorded=recorded,
    )  # fmt: skip
    assert match_classes(turned, ["n01440764"], "val").places == (999,)
