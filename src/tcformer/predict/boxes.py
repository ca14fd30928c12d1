"""Where people are: as files say it, by the name or COCO's number of a picture, or a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcformer.data.folder import read_json
from tcformer.data.keypoints.annotations import (
    categories_of,
    check_flag,
    check_number,
    check_numbers,
    check_whole,
    people_category,
)
from tcformer.errors import UserError
from tcformer.images import LeftOut


class Boxes(NamedTuple):
    """Where the people of one picture are."""

    boxes: NDArray[np.float64]  # (N, 4) x, y, width, height
    scores: tuple[float, ...]


NOBODY = Boxes(np.zeros((0, 4)), ())


class KnownBoxes(dict[str, Boxes]):
    """Boxes by the name of their picture; where the file at `path` has no names, by its number.

    `left_out` counts what of the file is nobody.
    """

    def __init__(self, path: str, boxes: Mapping[str, Boxes], left_out: LeftOut) -> None:
        super().__init__(boxes)
        self.path, self.left_out = path, left_out
        self._by_last: dict[str, list[str]] = {}
        for name in self:
            self._by_last.setdefault(Path(name).name, []).append(name)

    def of(self, file: Path, frame: int | None = None) -> Boxes | None:
        """The people of a picture or of a frame of a video; None if the file does not know it.

        A picture is known by its name, with folders where several have the same; or by its number,
        if it is called so, as COCO's are (000000000785.jpg). A video's frames have boxes of
        their own ("clip.mp4#0", as in keypoints.json), or share those of "clip.mp4".

        Raises:
            UserError: several pictures have this name, and it cannot be told which is meant.
        """
        if frame is not None and self._has_frames(file):
            return self._find(file, f"{file.name}#{frame}") or NOBODY
        found = self._find(file, file.name)
        if found is None and file.stem.isdecimal():
            found = self.get(str(int(file.stem)))
        return found

    def knows(self, file: Path) -> bool:
        """Whether anything is said of a picture or a video."""
        return self._has_frames(file) or self.of(file) is not None

    def _has_frames(self, file: Path) -> bool:
        return any(name.startswith(f"{file.name}#") for name in self._by_last)

    def _find(self, file: Path, last: str) -> Boxes | None:
        names = self._by_last.get(last, [])
        if len(names) > 1:
            whole = (file.resolve().parent / last).as_posix()
            names = [name for name in names if f"/{whole}".endswith(f"/{name.lstrip('./')}")]
            names = sorted(names, key=len)[-1:]
            if not names:
                raise UserError(
                    f"{self.path} has boxes in several pictures called {last}, none of which is "
                    f"{file} by its folders."
                )
        return self[names[0]] if names else None


def read_boxes(path: str) -> KnownBoxes:
    """Boxes of people from a file.

    It holds a list of objects with `bbox` (x, y, width, height in pixels), `file_name` or, as the
    results of detectors in COCO's format, `image_id`, and if wanted `score`; or annotations in
    COCO's format, whose `images` give the names. What is a crowd, or of another category than
    people, is left out and counted. An image that is listed without annotations shows nobody.

    Raises:
        UserError: it is neither, or a box is wrong.
    """
    content: Any = read_json(path, "a file of boxes")
    coco = content if isinstance(content, dict) else {}
    entries, images = (coco.get("annotations"), coco.get("images")) if coco else (content, None)
    names: dict[int, Any] = {
        image["id"]: image.get("file_name")
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict) and isinstance(image.get("id"), int)
    }
    listed = [name for name in names.values() if isinstance(name, str) and name]
    if not isinstance(entries, list) or not (entries or listed):
        raise UserError(
            f"{path} holds no boxes: it needs a list of objects with `file_name` and `bbox`, or "
            "COCO's annotations."
        )
    person = _person_category(coco, path) if coco else 1
    left_out = LeftOut()
    found: dict[str, list[tuple[list[float], float]]] = {name: [] for name in listed}
    for number, entry in enumerate(entries):
        where = f"box {number} of {path}"
        check_numbers(entry, "bbox", 4, where)
        rows = found.setdefault(_picture(entry, names, where), [])
        if check_flag(entry, "iscrowd", where):
            left_out.others["crowds"] += 1
        elif "category_id" in entry and check_whole(entry, "category_id", where) != person:
            left_out.others["boxes of other categories"] += 1
        elif min(entry["bbox"][2:]) <= 0:
            raise UserError(f"{where} has no area: {entry['bbox']}.")
        else:
            score = check_number(entry, "score", where) if "score" in entry else 1.0
            rows.append((entry["bbox"], score))
    boxes = {
        name: Boxes(
            np.array([box for box, _ in rows], np.float64).reshape(-1, 4),
            tuple(score for _, score in rows),
        )
        for name, rows in found.items()
    }
    return KnownBoxes(path, boxes, left_out)


def _picture(entry: Mapping[str, Any], names: Mapping[Any, Any], where: str) -> str:
    """The name of the picture that a box is in, or its number where there are no names."""
    image = entry.get("image_id")
    known = isinstance(image, int) and not isinstance(image, bool)
    name = entry.get("file_name", names.get(image) if known else None)
    if name is None and known and not names:
        return str(image)
    if not isinstance(name, str) or not name:
        raise UserError(f"{where} does not say which picture it is in: give `file_name`.")
    return name


def _person_category(content: Mapping[str, Any], path: str) -> int:
    """The id of people (or faces) in annotations, as everywhere in the package."""
    categories = categories_of(content, path)
    notes = [note for note in content["annotations"] if isinstance(note, dict)]
    with_points = [note.get("category_id") for note in notes if note.get("keypoints")]
    return people_category(categories, path, [i for i in categories if i in with_points])


DETECTOR = "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"
"""torchvision's weights of its detector, by the name under which it keeps them."""


class Detector:
    """torchvision's Faster R-CNN, asked for people of at least the score `threshold`.

    `weights` is the file of its weights; None looks where torchvision keeps what it has fetched.
    Raises `UserError` where they are not there, or not those of this detector.
    """

    def __init__(self, weights: str | None, threshold: float) -> None:
        import torch
        from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2

        from tcformer.weights.safe_torch import safe_torch_load

        kept = Path(torch.hub.get_dir()) / "checkpoints" / DETECTOR
        file = Path(weights) if weights else kept
        if not file.is_file():
            raise UserError(
                f"the detector needs torchvision's weights, but {file} does not exist: fetch "
                f"https://download.pytorch.org/models/{DETECTOR} and give it as "
                "--detector-weights, or give boxes with --boxes FILE, or leave --detect out to "
                "take each picture as one person."
            )
        self.network = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
        try:
            self.network.load_state_dict(safe_torch_load(file))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} does not hold the weights of torchvision's fasterrcnn_resnet50_fpn_v2."
            ) from error
        self.threshold = threshold

    def __call__(self, picture: NDArray[np.uint8]) -> Boxes:
        """The people of a picture (H, W, 3) uint8, best first."""
        import torch

        with torch.inference_mode():
            pixels = torch.tensor(picture).permute(2, 0, 1).float() / 255
            found = self.network([pixels])[0]
        good = (found["labels"] == 1) & (found["scores"] >= self.threshold)
        corners = found["boxes"][good].double().numpy()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        sides = (boxes[:, 2:] > 0).all(axis=1)
        scores = found["scores"][good].numpy()[sides]
        return Boxes(boxes[sides], tuple(float(s) for s in scores))
