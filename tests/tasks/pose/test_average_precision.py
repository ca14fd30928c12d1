"""Average precision: beside its definition, and what cannot be evaluated."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from keypoint_ap import statistics
from people import WHOLE, as_prediction, make_annotations

from tcformer.data.keypoints.annotations import read_truth
from tcformer.data.keypoints.people import all_points
from tcformer.errors import UserError
from tcformer.tasks.pose.average_precision import STATISTICS, evaluate_keypoints
from tcformer.tasks.pose.average_precision import WHOLE as WHOLE_PART

pytest.importorskip("pycocotools", reason="average precision needs pycocotools")
PARTS = [*WHOLE.parts, WHOLE_PART]


@pytest.fixture
def truth_file(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(make_annotations(seed=3, images=4, people=4, size=(400, 300))))
    return path


def noisy(path, seed=0):
    """Predictions around the annotations, some people missing, some there twice."""
    random = np.random.RandomState(seed)
    found = []
    for note in read_truth(path).annotations:
        for _ in range(random.choice([0, 1, 1, 2])):
            points = all_points(note, WHOLE)
            reach = random.choice([0.3, 1, 3]) * 2 * WHOLE.sigmas * np.sqrt(note["area"])
            points[:, :2] += random.randn(133, 2) * reach[:, None]
            points[:, 2] = random.uniform(-0.1, 1, 133)
            if random.rand() < 0.2:
                points[WHOLE.slice("face"), 2] = 0  # drops out of the face's evaluation
            entry = as_prediction(note, points, float(random.rand()))
            if random.rand() < 0.5:
                entry["foot_score"] = float(random.rand())
            found.append(entry)
    return found


def by_definition(path, found, part):
    """The ten numbers of a part by the slow reference."""
    chosen = np.ones(133, bool)
    if part != WHOLE_PART:
        chosen[:] = False
        chosen[WHOLE.slice(part)] = True
    real = read_truth(path)
    truths = {image: [] for image in real.images}
    for note in real.annotations:
        truths[note["image_id"]].append(
            {"points": all_points(note, WHOLE)[chosen], "area": note["area"],
             "bbox": note["bbox"], "crowd": note["iscrowd"]}
        )  # fmt: skip
    people = {}
    for entry in found:
        points = all_points(entry, WHOLE)
        if (points[chosen, 2] > 0).any():
            body = points[:17, :2]
            score = entry.get(f"{part}_score", entry["score"]) if part != "body" else entry["score"]
            people.setdefault(entry["image_id"], []).append(
                {"points": points[chosen], "score": score, "area": np.prod(np.ptp(body, axis=0))}
            )
    return statistics(truths, people, WHOLE.sigmas[chosen])


@pytest.mark.parametrize("seed", [0, 1])
def test_all_numbers_are_those_of_the_definition(truth_file, seed):
    found = noisy(truth_file, seed)
    table = evaluate_keypoints(truth_file, found)
    assert list(table) == PARTS
    for part in PARTS:
        want = by_definition(truth_file, found, part)
        for name in STATISTICS:
            assert table[part][name] == pytest.approx(want[name], abs=1e-9), (part, name)
    assert 0.05 < table["body"]["AP"] < 0.95  # the case says something


def test_the_truth_is_perfect(truth_file):
    found = [
        as_prediction(n, all_points(n, WHOLE), 1.0) for n in read_truth(truth_file).annotations
    ]
    table = evaluate_keypoints(truth_file, found)
    assert all(table[part]["AP"] == pytest.approx(1) for part in PARTS)
    assert all(table[part]["AR"] == pytest.approx(1) for part in PARTS)


@pytest.mark.parametrize("area", [900.0, 1024.0, 90000.0])
def test_a_part_that_nobody_predicts(truth_file, area):
    """Zero where there is truth, and -1 where there is none: also by size, and in no case else."""
    content = json.loads(truth_file.read_text())
    for note in content["annotations"]:
        note["area"] = area
    truth_file.write_text(json.dumps(content))
    found = noisy(truth_file)
    for entry in found:
        entry["face_kpts"][2::3] = [0.0] * 68
    table = evaluate_keypoints(truth_file, found)
    assert table["face"] == pytest.approx(by_definition(truth_file, found, "face"))
    assert -1 in table["face"].values()


def test_bodies_alone(tmp_path):
    """COCO's own files: one part, and predictions need no other."""
    content = make_annotations(seed=5)
    for note in content["annotations"]:
        for part, field in WHOLE.fields.items():
            if part != "body":
                del note[field]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    found = [
        {"image_id": n["image_id"], "category_id": 1, "score": 0.9, "keypoints": n["keypoints"]}
        for n in content["annotations"]
        if n["num_keypoints"]
    ]
    table = evaluate_keypoints(path, found)
    assert list(table) == ["body"]
    assert table["body"]["AP"] == pytest.approx(1)


def bodies(seed):
    """Annotations of COCO's 17 keypoints and results around them, as COCO's own tools like them."""
    content = make_annotations(seed, images=4, people=4, size=(300, 200))
    random = np.random.RandomState(seed)
    notes, found = content["annotations"], []
    for number, note in enumerate(notes, 1):
        note["id"] = number
        for part, field in WHOLE.fields.items():
            if part != "body":
                del note[field]
        reach = 2 * WHOLE.sigmas[:17] * np.sqrt(note["area"])
        for _ in range(random.choice([0, 1, 1, 2])):
            points = np.array(note["keypoints"]).reshape(17, 3)
            points[:, :2] += random.randn(17, 2) * reach[:, None] * random.choice([0.3, 1, 3])
            points[:, 2] = random.uniform(-0.5, 1, 17)
            entry = {"image_id": note["image_id"], "category_id": 1, "score": float(random.rand())}
            found.append({**entry, "keypoints": points.ravel().tolist()})
    return content, found


def by_coco(content, found):
    """The numbers by pycocotools alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = COCO()
    data.dataset = copy.deepcopy({"info": {}, **content})
    data.createIndex()
    run = COCOeval(data, data.loadRes(copy.deepcopy(found)), "keypoints")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return dict(zip(STATISTICS, run.stats, strict=True))


def written(folder, content, found):
    """The paths of two files that say so."""
    for name, what in (("truth", content), ("found", found)):
        (folder / name).write_text(json.dumps(what))
    return folder / "truth", folder / "found"


REMOVED = object()


def set_all(field, values):
    """A change that gives annotations these values in turn; `REMOVED` takes the field away."""

    def change(content, found):
        for note, value in zip(content["annotations"], values * 20):  # noqa: B905
            note[field] = value
            if value is REMOVED:
                del note[field]

    return change


def words_for_crowds(content, found):
    for note, words in zip(content["annotations"], [("0", "1"), (False, True)] * 9):  # noqa: B905
        note["iscrowd"] = words[note["iscrowd"]]


def no_categories(content, found):
    del content["categories"]


def numbers_in_place_of_names(content, found):
    content["categories"] = [{"id": 1, "name": "1", "keypoints": ["nose"]}, {"id": 2, "name": "2"}]


def other_categories(content, found):
    """Dogs without keypoints, and cats that lie on the people."""
    content["categories"] = [{"id": 0, "name": "cat"}, *content["categories"], {"id": 9}]
    notes = content["annotations"]
    dogs = [{k: v for k, v in n.items() if k != "keypoints"} | {"category_id": 9} for n in notes]
    content["annotations"] = [*dogs, *notes, *({**n, "category_id": 0} for n in notes)]
    found[:] = [*({**e, "category_id": 0, "score": 1.0} for e in found), *found]


def another_number_for_people(content, found):
    for entry in [*content["categories"], *content["annotations"], *found]:
        entry["category_id" if "id" not in entry or "image_id" in entry else "id"] = 0


def other_third_numbers(content, found):
    for entry in found:
        entry["keypoints"][2::3] = [-1.3] * 17


CHANGES = {
    "ids from 0": set_all("id", list(range(16))),
    "no ids": set_all("id", [REMOVED]),
    "other ids": set_all("id", [7, 7, "0", None, 2**70, 0, -1]),
    "no counts": set_all("num_keypoints", [REMOVED]),
    "words for crowds": words_for_crowds,
    "no categories": no_categories,
    "numbers in place of names": numbers_in_place_of_names,
    "other categories": other_categories,
    "another number for people": another_number_for_people,
    "other third numbers": other_third_numbers,
}


@pytest.mark.parametrize("name", CHANGES)
def test_files_of_other_hands_have_the_numbers_of_coco(tmp_path, name):
    content, found = bodies(0)
    want = by_coco(content, found)
    assert 0.05 < want["AP"] < 0.95
    CHANGES[name](content, found)
    assert evaluate_keypoints(*written(tmp_path, content, found)) == {"body": want}


@pytest.mark.parametrize("position", [0, 3])
def test_the_first_result_decides_by_what_people_are_measured(tmp_path, position):
    """By their boxes if it has one, as in COCO's tools and the official script."""
    content, found = bodies(1)
    plain = by_coco(content, found)
    for entry in found[position:]:
        entry["bbox"] = [0, 0, 40.0, 40.0]
    want = by_coco(content, found)
    assert (want == plain) == (position > 0)
    path, _ = written(tmp_path, content, found)
    assert evaluate_keypoints(path, found) == {"body": want}
    if not position:
        del found[2]["bbox"]
        with pytest.raises(UserError, match=r"entry 2 .*has no `bbox`"):
            evaluate_keypoints(path, found)
        found[0] |= {"bbox": [], "segmentation": {}}
        with pytest.raises(UserError, match="mask"):
            evaluate_keypoints(path, found)


def test_the_declared_minimum_of_pycocotools(truth_file, monkeypatch):
    """2.0.10 asks for `info`, which few files of other hands have."""
    from pycocotools.coco import COCO

    newer = COCO.loadRes
    monkeypatch.setattr(
        COCO, "loadRes", lambda self, rows: self.dataset["info"] or newer(self, rows)
    )
    assert 0 < evaluate_keypoints(truth_file, noisy(truth_file))["body"]["AP"] < 1


def test_results_with_names_of_their_own(tmp_path):
    """A file in the form of the truth says itself who a person is and which photograph is meant."""
    content, found = bodies(0)
    want = by_coco(content, found)
    theirs = {
        "images": copy.deepcopy(content["images"]),
        "categories": [{"id": 5, "name": "dog"}, {"id": 7, "name": "Person"}],
        "annotations": [{**e, "category_id": 7} for e in found],
    }
    theirs["annotations"].append({**found[0], "category_id": 5, "score": 1.0})
    assert evaluate_keypoints(*written(tmp_path, content, theirs)) == {"body": want}
    for image in theirs["images"]:
        image["id"] = 5 - image["id"]
    with pytest.raises(UserError, match="number the results as"):
        evaluate_keypoints(*written(tmp_path, content, theirs))


def test_people_that_coco_ignores(tmp_path):
    """It asks `num_keypoints`; without labelled keypoints distances are those to the box."""
    content, found = bodies(2)
    plain = by_coco(content, found)
    content["annotations"][0]["num_keypoints"] = 0
    content["annotations"][4]["keypoints"] = [0.0] * 51
    want = by_coco(content, found)
    assert want != plain
    assert evaluate_keypoints(*written(tmp_path, content, found)) == {"body": want}


def test_whole_bodies_of_other_hands(truth_file):
    """Ids from 0 and other categories; the third number counts here, and a box if it is there."""
    found = noisy(truth_file)
    want = evaluate_keypoints(truth_file, found)
    content = json.loads(truth_file.read_text())
    CHANGES["ids from 0"](content, found)
    dog = {"id": 99, "image_id": 1, "category_id": 2, "iscrowd": "0"}
    content["annotations"].insert(0, dog)
    content["categories"].append({"id": 2, "name": "dog"})
    truth_file.write_text(json.dumps(content))
    assert evaluate_keypoints(truth_file, found) == want
    boxed = [{**entry, "bbox": [0, 0, 40.0, 40.0]} for entry in found]
    other = evaluate_keypoints(truth_file, boxed)
    for part in PARTS:
        assert other[part]["AP"] == want[part]["AP"]
        assert other[part]["APl"] >= want[part]["APl"]  # nobody who is too much is that large
    assert other["body"]["APl"] > want["body"]["APl"]
    for entry in found:
        entry["foot_kpts"][2::3] = [0] * 6
    assert evaluate_keypoints(truth_file, found)["foot"]["AP"] == 0


def test_numbers_of_numpy(truth_file):
    """Predictions need not come from a file."""
    found = noisy(truth_file)
    for entry in found:
        entry["image_id"] = np.int64(entry["image_id"])
        entry["score"] = np.float32(entry["score"])
        entry["keypoints"] = list(np.array(entry["keypoints"], np.float32))
    plain = json.loads(json.dumps(found, default=lambda number: number.item()))
    assert evaluate_keypoints(truth_file, found) == evaluate_keypoints(truth_file, plain)
    found[0]["score"] = np.float32("nan")
    with pytest.raises(UserError, match="not a finite number"):
        evaluate_keypoints(truth_file, found)


WRONG = [
    (lambda e: e.pop("image_id"), "entry 1 of .* has no `image_id`"),
    (lambda e: e.update({"image_id": 77}), "image 77, which .* does not list"),
    (lambda e: e.pop("face_kpts"), "has no `face_kpts`"),
    (lambda e: e["lefthand_kpts"].pop(), "`lefthand_kpts` needs 63 numbers, it has 62 numbers"),
    (lambda e: e.update({"keypoints": 3}), "`keypoints` needs 51 numbers, it has 3"),
    (lambda e: e.update({"score": float("nan")}), "`score` is nan, not a finite number"),
    (lambda e: e["foot_kpts"].__setitem__(4, float("inf")), "number 4 of `foot_kpts` is inf"),
    (lambda e: e["foot_kpts"].__setitem__(0, True), "number 0 of `foot_kpts` is True"),
    (lambda e: e["foot_kpts"].__setitem__(0, 10**400), "number 0 of `foot_kpts` is 1000"),
    (lambda e: e.update({"category_id": 2}), "category_id 2"),
    (lambda e: e.update({"score": "0.5"}), "`score` is '0.5'"),
    (lambda e: e.update({"category_id": "x" * 9999}), "`category_id` is 'xxx"),
    (lambda e: e["keypoints"].__setitem__(0, -1e300), "number 0 of `keypoints` is -1e"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_predictions(truth_file, tmp_path, change, words):
    found = noisy(truth_file)
    change(found[1])
    path = tmp_path / "found.json"
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=words) as error:
        evaluate_keypoints(truth_file, path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": 1}', "[3]", "[" * 10000, "\x00\xff"])
def test_files_that_hold_no_predictions(truth_file, tmp_path, text):
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        evaluate_keypoints(truth_file, path)
    assert str(path) in str(error.value)
    with pytest.raises(UserError):
        evaluate_keypoints(path, path)


def test_missing_file(truth_file, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        evaluate_keypoints(truth_file, tmp_path / "no.json")
    with pytest.raises(UserError, match="cannot be read"):
        evaluate_keypoints(tmp_path, tmp_path)
