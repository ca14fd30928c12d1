import json

import pytest

from tcformer.data import DataSpec, build_dataset
from tcformer.errors import UserError

RANKS = ("kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name")


@pytest.fixture
def inat(tmp_path, picture, encode):
    """inat(year, shorter=False): two species of birds and a plant; returns the root."""

    def make(year=2018, shorter=False):
        groups = ["Aves", "Aves", "Plants"]
        table = [{"id": i, **{r: f"{r} of {groups[i]}" for r in RANKS}} for i in range(3)]
        for i, row in enumerate(table):
            row["name"] = f"species {i}"
        (tmp_path / "categories.json").write_text(json.dumps(table))
        number = 0
        for split, labels in (("train", [2, 0, 1, 0]), ("val", [0, 1, 2])):
            images, notes = [], []
            for label in labels:
                name = f"train_val{year}/{groups[label]}/{label}/{number}.jpg"
                images.append({"id": number, "file_name": name})
                notes.append({"id": number, "image_id": number, "category_id": label})
                place = tmp_path / (name.replace(f"/{groups[label]}/", "/") if shorter else name)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(encode(picture(number), "JPEG"))
                number += 1
            # Annotations in an order of their own: labels must be joined by id, not by position.
            content = {"images": images, "annotations": notes if split == "train" else notes[::-1]}
            (tmp_path / f"{split}{year}.json").write_text(json.dumps(content))
        return tmp_path

    return make


def build(root, split="val", name="INAT", **options):
    return build_dataset(DataSpec(data_path=str(root), data_set=name, **options), split)


@pytest.mark.parametrize("shorter", [False, True])
@pytest.mark.parametrize(("name", "year"), [("INAT", 2018), ("INAT19", 2019)])
def test_labels_follow_the_training_annotations(inat, name, year, shorter):
    root = inat(year, shorter)
    train, val = build(root, "train", name), build(root, "val", name)
    assert train.classes == val.classes == ["species 2", "species 0", "species 1"]
    assert [train[i].target for i in range(4)] == [0, 1, 2, 1]
    assert [val[i].target for i in range(3)] == [1, 2, 0]
    assert val.describe(0).endswith("/0/4.jpg")
    assert val[0].image.size == (20, 14)


def test_any_rank_can_be_the_label(inat):
    root = inat()
    for rank in RANKS[:-1]:
        data = build(root, inat_category=rank)
        assert data.classes == [f"{rank} of Plants", f"{rank} of Aves"]
        assert [data[i].target for i in range(3)] == [1, 1, 0]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda r: (r / "train2018.json").unlink(), "train2018.json does not exist"),
        (lambda r: (r / "val2018.json").unlink(), "val2018.json does not exist"),
        (lambda r: (r / "categories.json").write_text("{"), "is not JSON"),
        (lambda r: (r / "categories.json").write_text("{}"), "no list 'categories'"),
        (lambda r: (r / "val2018.json").write_text("[]"), "no list 'annotations'"),
        (lambda r: edit(r / "val2018.json", lambda c: c["annotations"].pop()), "without an annot"),
        (
            lambda r: edit(r / "val2018.json", lambda c: c["annotations"][0].update(category_id=9)),
            "does not occur in train2018.json",
        ),
        (
            lambda r: edit(
                r / "train2018.json", lambda c: c["annotations"][0].update(category_id=9)
            ),
            "not in categories.json",
        ),
        (lambda r: edit(r / "categories.json", lambda c: c[1].pop("genus")), "inat-category genus"),
        (lambda r: (r / "train_val2018").rename(r / "elsewhere"), "unpack them there"),
    ],
)
def test_damaged_lists_are_refused_with_a_sentence(inat, damage, says):
    root = inat()
    damage(root)
    with pytest.raises(UserError) as error:
        build(root, inat_category="genus")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


WRONG_NAMES = ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\0b", "\ud800", "", 5]
WRONG = [("images", "file_name", name) for name in WRONG_NAMES]
WRONG += [
    ("annotations", key, value) for key in ("image_id", "category_id") for value in ([1], 1.5)
]


@pytest.mark.parametrize(("table", "field", "wrong"), WRONG)
def test_names_that_lead_out_and_ids_that_are_none_are_refused(tmp_path, table, field, wrong):
    lists = {
        "images": [{"id": 0, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 0, "category_id": 0}],
    }
    lists[table][0][field] = wrong
    (tmp_path / "categories.json").write_text('[{"id": 0, "name": "s"}]')
    for file in ("train2018.json", "val2018.json"):
        (tmp_path / file).write_text(json.dumps(lists))
    words = "a file name below --data-path" if table == "images" else "annotation|category"
    with pytest.raises(UserError, match=words):
        build(tmp_path)
