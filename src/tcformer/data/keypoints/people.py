"""Who is in which photograph: people of COCO-WholeBody, faces of WFLW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from tcformer.data.dataset import Source
from tcformer.data.folder import PathList, read_json, require_folder
from tcformer.data.keypoints import Layout, layout
from tcformer.data.keypoints.annotations import (
    Truth,
    check_number,
    check_numbers,
    check_whole,
    names_and_sizes,
    points_of,
    read_truth,
)
from tcformer.errors import UserError
from tcformer.files import read_text
from tcformer.images import LeftOut, decode_rgb

_SUBSET_FILES = {
    "pose": "largepose", "expression": "expression", "illumination": "illumination",
    "make-up": "makeup", "occlusion": "occlusion", "blur": "blur",
}  # fmt: skip

DETECTIONS = "COCO_val2017_detections_AP_H_56_person.json"
"""The person boxes of published results, by the name under which they are given out."""


class Subject(NamedTuple):
    """One person or face to look for."""

    image_id: int
    number: int  # id of a face's annotation; otherwise position in the file
    box: np.ndarray  # (4,) float64: x, y, width, height
    points: np.ndarray  # (K, 2) float64, pixels; zeros for a detected box
    visible: np.ndarray  # (K,) float64, above zero where labeled
    score: float  # of the box; 1 for an annotated one


class KeypointSource(Source, Protocol):
    """Where photographs and the people in them come from; `read` gives RGB."""

    layout: Layout
    truth: Truth | None  # the annotations to evaluate against; None if the subjects hold them
    padding: float  # factor between a subject's box and what the network sees
    left_out: LeftOut  # what of the files is not looked for

    def subject(self, index: int) -> Subject:
        """One person or face."""
        ...


class _Files:
    """Subjects in files, packed into arrays, which worker processes share."""

    padding = 1.25

    def __init__(
        self,
        kind: Layout,
        folder: Path,
        names: Mapping[int, str],
        subjects: Sequence[Subject],
        left_out: LeftOut,
    ) -> None:
        self.layout, self.left_out = kind, left_out
        self.classes = list(kind.names)
        self.truth: Truth | None = None
        ids = sorted({s.image_id for s in subjects})
        position = {image: i for i, image in enumerate(ids)}
        self.files = PathList([str(folder / names[image]) for image in ids])
        self._file = np.array([position[s.image_id] for s in subjects], np.int64)
        self._ids = np.array([(s.image_id, s.number) for s in subjects], np.int64).reshape(-1, 2)
        self._boxes = np.array([s.box for s in subjects], np.float64).reshape(-1, 4)
        self._scores = np.array([s.score for s in subjects], np.float64)
        # float32 holds a thousandth of a pixel, in half of the memory.
        self._points = np.zeros((len(subjects), len(kind), 3), np.float32)
        for row, subject in zip(self._points, subjects, strict=True):
            row[:, :2], row[:, 2] = subject.points, subject.visible
        self.labels = np.rint(self._boxes).astype(np.int64)  # what tells two such sets apart

    def __len__(self) -> int:
        return len(self._file)

    def subject(self, index: int) -> Subject:
        """One person or face."""
        points = self._points[index].astype(np.float64)
        image, number = (int(i) for i in self._ids[index])
        score = float(self._scores[index])
        return Subject(image, number, self._boxes[index], points[:, :2], points[:, 2], score)

    def describe(self, index: int) -> str:
        """The photograph's path."""
        return self.files[int(self._file[index])]

    def read(self, index: int) -> Image.Image:
        """The photograph, RGB, turned as its EXIF data says: so people annotated it."""
        return decode_rgb(Path(self.describe(index)).read_bytes())


class WholeBodySource(_Files):
    """People of COCO 2017 with COCO-WholeBody's 133 keypoints.

    Below the data path lie `annotations/coco_wholebody_{train,val}_v1.0.json` and the photographs
    in `train2017/` and `val2017/` (or these two in `images/`).

    Args:
        data_path: the folder.
        split: "train" or "val".
        boxes: who is looked for in "val": "truth" for the annotated people, or a file of detected
            boxes (`bbox`, `image_id`, `score`, `category_id` 1); empty for the published one, in
            `person_detection_results/` or the data path itself.

    Raises:
        UserError: a file or folder is missing or wrong.
    """

    def __init__(self, data_path: str, split: str, boxes: str = "") -> None:
        root = require_folder(
            data_path, "COCO's folder, which holds annotations/, train2017/ and val2017/"
        )
        notes = root / "annotations" / f"coco_wholebody_{split}_v1.0.json"
        truth = read_truth(notes)
        if truth.kind.name != "coco_wholebody" or len(truth.parts) < len(truth.kind.parts):
            raise UserError(
                f"{notes} holds COCO's keypoints without feet, face and hands; give the file of "
                "COCO-WholeBody."
            )
        names, sizes = names_and_sizes(truth.image_entries, notes)
        folder = _first_folder(root / f"{split}2017", root / "images" / f"{split}2017")
        kind = layout("coco_wholebody")
        if split == "train" or boxes == "truth":
            subjects, left_out = _annotated(truth, sizes)
        else:
            subjects, left_out = _detected(_boxes_file(root, boxes), truth)
        if not subjects:
            raise UserError(f"{notes} has no person with a labeled body keypoint.")
        super().__init__(kind, folder, names, subjects, left_out)
        self.truth = None if split == "train" else truth
        self.annotations_file = notes


class WflwSource(_Files):
    """Faces of WFLW with 98 landmarks; a face is cut out by its landmarks, as published.

    Below the data path lie either MMPose's conversion, `annotations/face_landmarks_wflw_{train,
    test}.json` and `images/`, or the set as its authors give it out, the lists of 98 points in
    `WFLW_annotations/list_98pt_rect_attr_train_test/` and `WFLW_images/`. The lists name the
    subsets of the test faces; the conversion does where its files of them, such as
    `face_landmarks_wflw_test_blur.json`, are there too.

    Raises:
        UserError: a file or folder is missing or wrong.
    """

    def __init__(self, data_path: str, split: str) -> None:
        root = require_folder(data_path, "WFLW's folder (docs/pose.md shows its two layouts)")
        name = "train" if split == "train" else "test"
        converted = root / "annotations" / f"face_landmarks_wflw_{name}.json"
        lists = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
        listed = lists / f"list_98pt_rect_attr_{name}.txt"
        if converted.is_file() or not listed.is_file():
            truth = read_truth(converted)
            names, _ = names_and_sizes(truth.image_entries, converted)
            folder = _first_folder(root / "images")
            if split != "train":
                truth = _with_subsets(truth, names, converted.parent)
        else:
            truth, names = read_wflw_list(listed)
            folder = _first_folder(root / "WFLW_images")
        if truth.kind.name != "wflw":
            raise UserError(f"{truth.path} does not hold the 98 landmarks of WFLW.")
        truth, left_out = measurable_faces(truth, unit=split != "train")
        subjects = [_face(note) for note in truth.annotations]
        super().__init__(layout("wflw"), folder, names, subjects, left_out)
        self.truth = None if split == "train" else truth
        self.annotations_file = Path(truth.path)


def read_wflw_list(path: Path) -> tuple[Truth, dict[int, str]]:
    """A list of WFLW's authors: a line is 196 coordinates, a box, six attributes and a file name.

    Returns:
        The faces, whose ids are the numbers of their lines, from 1; and the files by image id.

    Raises:
        UserError: the file cannot be read, or a line is wrong.
    """
    kind = layout("wflw")
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    images: dict[str, int] = {}
    notes = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"line {number} of {path}"
        if len(words) != 207:
            raise UserError(f"{where} must have 207 fields, but it has {len(words)}.")
        try:
            values = [float(word) for word in words[:206]]
        except ValueError:
            raise UserError(f"{where} has text where numbers belong.") from None
        if not np.isfinite(values).all() or not set(values[200:]) <= {0.0, 1.0}:
            raise UserError(f"{where} has numbers that are not finite, or attributes beyond 0, 1.")
        image = images.setdefault(words[206], len(images) + 1)
        points = np.array(values[:196]).reshape(-1, 2)
        keypoints = np.concatenate([points, np.ones((len(kind), 1))], axis=1).ravel().tolist()
        note = {"id": number, "image_id": image, "iscrowd": 0, "keypoints": keypoints}
        notes.append({**note, "attributes": [int(v) for v in values[200:]]})
    if not notes:
        raise UserError(f"{path} lists no faces.")
    truth = Truth(str(path), kind, ("face",), tuple(images.values()), tuple(notes))
    return truth, {image: name for name, image in images.items()}


def _with_subsets(truth: Truth, names: Mapping[int, str], folder: Path) -> Truth:
    """The faces with the subsets that they are in, by the conversion's files of those.

    Ids differ between the files, so a face is known by its photograph and landmarks.
    """
    notes = [dict(note) for note in truth.annotations]
    by_face = {(names[n["image_id"]], tuple(n["keypoints"])): n for n in notes}
    for subset, word in _SUBSET_FILES.items():
        path = folder / f"face_landmarks_wflw_test_{word}.json"
        if not path.is_file():
            continue
        part = read_truth(path)
        part_names, _ = names_and_sizes(part.image_entries, path)
        for note in part.annotations:
            face = by_face.get((part_names[note["image_id"]], tuple(note["keypoints"])))
            if face is None:
                raise UserError(
                    f"annotation {note['id']} of {path} is on a face that {truth.path} does not "
                    "have: use two files of the same conversion."
                )
            face["attributes"] = [*face.get("attributes", []), subset]
    return replace(truth, annotations=tuple(notes))


def all_points(note: Mapping[str, Any], kind: Layout) -> np.ndarray:
    """(K, 3) float64: the keypoints of all parts of an annotation, in order."""
    return np.concatenate([points_of(note, field) for field in kind.fields.values()])


def _annotated(truth: Truth, sizes: Mapping[int, tuple[int, int]]) -> tuple[list[Subject], LeftOut]:
    """The people that the published code trains on: not crowds, with a box and body keypoints."""
    subjects, left_out = [], LeftOut()
    for number, note in enumerate(truth.annotations):
        width, height = sizes[note["image_id"]]
        x, y, w, h = (float(v) for v in note["bbox"])
        x0, y0 = max(0.0, x), max(0.0, y)
        x1, y1 = min(width - 1.0, x0 + max(0.0, w)), min(height - 1.0, y0 + max(0.0, h))
        if note["iscrowd"]:
            left_out.others["crowds"] += 1
        elif note["area"] <= 0 or x1 <= x0 or y1 <= y0:
            left_out.others["people without area"] += 1
        elif max(note[truth.kind.fields["body"]]) == 0:
            left_out.others["people without body keypoints"] += 1
        else:
            points = all_points(note, truth.kind)
            box = np.array([x0, y0, x1 - x0, y1 - y0])
            subjects.append(
                Subject(note["image_id"], number, box, points[:, :2], points[:, 2], 1.0)
            )
    left_out.add("annotations of other categories", truth.num_others)
    return subjects, left_out


def _detected(path: Path, truth: Truth) -> tuple[list[Subject], LeftOut]:
    """The boxes of people in a detector's file, on the images of `truth`."""
    content = read_json(path, "a file of detected boxes")
    if not isinstance(content, list):
        raise UserError(f"{path} needs a list with one entry a box.")
    images = set(truth.images)
    nothing = np.zeros((len(truth.kind), 2)), np.zeros(len(truth.kind))
    subjects, left_out = [], LeftOut()
    for number, entry in enumerate(content):
        where = f"box {number} of {path}"
        if check_whole(entry, "category_id", where) != truth.category:
            left_out.others["boxes of other categories"] += 1
            continue
        image = check_whole(entry, "image_id", where)
        if image not in images:
            raise UserError(f"{where} is on image {image}, which the annotations do not list.")
        box = np.array(check_numbers(entry, "bbox", 4, where), np.float64)
        score = check_number(entry, "score", where)
        if score < 0 or (box[2:] <= 0).any():
            left_out.others["boxes without area or with a score below 0"] += 1
            continue
        subjects.append(Subject(image, number, box, *nothing, score))
    if not subjects:
        raise UserError(f"{path} holds no person's box (category {truth.category}).")
    wanted = {note["image_id"] for note in truth.annotations if not note["iscrowd"]}
    without = wanted - {subject.image_id for subject in subjects}
    left_out.add("images with people and without a box", len(without))
    return subjects, left_out


def measurable_faces(truth: Truth, *, unit: bool = True) -> tuple[Truth, LeftOut]:
    """The faces with landmarks, and why how many others are left out.

    Args:
        truth: annotations of faces.
        unit: whether a face needs the distance that its error is measured by.

    Raises:
        UserError: there are none.
    """
    faces, left_out = [], LeftOut()
    for note in truth.annotations:
        points = points_of(note, "keypoints")
        ends = points[list(truth.kind.norm or ())]
        if note["iscrowd"]:
            left_out.others["crowds"] += 1
        elif not (points[:, 2] > 0).any():
            left_out.others["faces without labelled landmarks"] += 1
        elif unit and ((ends[:, 2] <= 0).any() or (ends[0, :2] == ends[1, :2]).all()):
            left_out.others["faces without a distance of the outer eye corners"] += 1
        else:
            faces.append(note)
    left_out.add("annotations of other categories", truth.num_others)
    if not faces:
        raise UserError(f"{truth.path} has no face with labeled landmarks.")
    return replace(truth, annotations=tuple(faces), num_others=0), left_out


def _face(note: Mapping[str, Any]) -> Subject:
    """A square around the labeled landmarks, of whole pixels."""
    points = points_of(note, "keypoints")
    seen = points[points[:, 2] > 0, :2]  # those that are not stand at (0, 0)
    low, high = np.floor(seen.min(0)), np.ceil(seen.max(0))
    side = max(float((high - low).max()), 1.0)
    box = np.array([*((low + high) / 2 - side / 2), side, side])
    return Subject(note["image_id"], note["id"], box, points[:, :2], points[:, 2], 1.0)


def _boxes_file(root: Path, boxes: str) -> Path:
    if boxes:
        return Path(boxes)
    for folder in (root / "person_detection_results", root / "annotations", root):
        if (folder / DETECTIONS).is_file():
            return folder / DETECTIONS
    raise UserError(
        f"{DETECTIONS} is not in {root / 'person_detection_results'}: fetch it, name another file "
        "of boxes with --boxes FILE, or look for the annotated people with --boxes truth."
    )


def _first_folder(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(f"The folder {folders[0]}, which should hold the photographs, is missing.")
