"""Evaluate a network on a folder of pictures whose classes are known."""

from __future__ import annotations

import bisect
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tcformer.data.folder import FolderSource
from tcformer.errors import UserError
from tcformer.images import is_hidden
from tcformer.predict.classes import Matching, match_names
from tcformer.predict.confusion import Confusion
from tcformer.predict.predict import DECIMALS, probabilities_each, refuse_unreadable
from tcformer.predict.sources import Picture

if TYPE_CHECKING:
    from tcformer.predict.loaded import Loaded

__all__ = [
    "LabeledPrediction",
    "Matching",
    "Report",
    "evaluate",
    "labeled_folder",
    "match_classes",
]


class LabeledPrediction(NamedTuple):
    """The class that a network predicts for one picture, and the true one."""

    image: str
    """path"""
    truth: int
    """number of the class in the network's scores, as `answer`"""
    answer: int
    probability: float
    """of the answer, 0 to 1, four decimals"""
    truth_probability: float
    """of the true class, likewise"""

    @property
    def right(self) -> bool:
        """Whether the answer is the truth."""
        return self.truth == self.answer


@dataclass
class Report:
    """The outcome of `evaluate`.

    Attributes:
        confusion: truth against answer, over all classes of the network.
        right: right answers to look at: the most confident one of each class, then the second of
            each, and so on.
        wrong: the wrong answers of which the network was most certain.
        unread: pictures that were left out because they cannot be read.
    """

    confusion: Confusion
    right: list[LabeledPrediction] = field(default_factory=list)
    wrong: list[LabeledPrediction] = field(default_factory=list)
    unread: int = 0


def labeled_folder(folder: str | os.PathLike[str]) -> FolderSource:
    """The pictures of a folder that holds a folder for each class, or of its subfolder `val`.

    Raises:
        UserError: no such folder, no class folders, a class without pictures.
    """
    path = Path(folder)

    def folders(where: Path) -> set[str]:
        return {e.name for e in os.scandir(where) if e.is_dir() and not is_hidden(e.name)}

    try:
        inside = folders(path)
    except FileNotFoundError:
        raise UserError(f"there is no folder {path}") from None
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{path} must be a folder with a folder for each class: {why}") from None
    # A class may be called "val", too: then there are no folders in it.
    if "val" in inside and ("train" in inside or folders(path / "val")):
        return FolderSource(os.fspath(path), "val")
    if "train" in inside and folders(path / "train"):
        raise UserError(
            f"{path} holds train/ and no val/: name the folder with one folder a class in it, such "
            f"as {path / 'train'}"
        )
    if path.name in ("", ".."):
        path = path.resolve()
    return FolderSource(os.fspath(path.parent), path.name)


def match_classes(loaded: Loaded, folders: Sequence[str], where: str) -> Matching:
    """Find each class folder among the classes of a network, by its name; see `match_names`.

    `where` is the folder they are in, for messages. Raises `UserError` where a folder is none of
    the network's classes, or nobody can know which.
    """
    return match_names(
        folders, loaded.recorded or (loaded.classes if loaded.named else None), loaded.num_classes,
        words=loaded.classes, weights=loaded.source or loaded.name, where=where,
    )  # fmt: skip


def evaluate(
    loaded: Loaded,
    source: FolderSource,
    matching: Matching,
    *,
    keep: int = 12,
    unreadable: Callable[[str, str], None] | None = None,
    each: Callable[[LabeledPrediction], None] | None = None,
    **options: Any,
) -> Report:
    """Predict every picture of a folder and count; memory does not grow with their number.

    Args:
        loaded: a classifier.
        source: the pictures.
        matching: which score stands for which class.
        keep: how many right and how many wrong predictions to keep to be looked at.
        unreadable: is told the name of what cannot be read, and why; it is left out.
        each: is told every prediction, in the order of the files.
        **options: `batch_size`, `workers` and `amp` of `predict_each`.

    Raises:
        UserError: a picture cannot be read (without `unreadable`), or scores are not numbers.
    """
    counts = np.zeros((loaded.num_classes, loaded.num_classes), np.int64)
    report = Report(Confusion(counts, matching.names))
    truths: dict[str, int] = {}  # of the pictures that are read ahead

    def pictures() -> Iterator[Picture]:
        for index in range(len(source)):
            path = source.describe(index)
            truths[path] = matching.places[int(source.files.labels[index])]
            yield Picture(path, path)

    def left_out(name: str, reason: str) -> None:
        del truths[name]
        report.unread += 1
        (unreadable or refuse_unreadable)(name, reason)

    # Wrong ones under None, right ones under their class: the most confident first, ties in the
    # order of the files.
    kept: dict[int | None, list[tuple[float, int, LabeledPrediction]]] = defaultdict(list)
    rows = probabilities_each(loaded, pictures(), unreadable=left_out, **options)
    for place, (name, row) in enumerate(rows):
        truth = truths.pop(name)
        answer = int(row.argsort(descending=True, stable=True)[0])
        share, of_truth = (round(float(row[number]), DECIMALS) for number in (answer, truth))
        found = LabeledPrediction(name, truth, answer, share, of_truth)
        counts[truth, answer] += 1
        group = kept[truth if found.right else None]
        bisect.insort(group, (-share, place, found))
        del group[keep:]
        if each is not None:
            each(found)
    report.wrong = [found for _, _, found in kept.pop(None, [])]
    turns = (sorted(filter(None, turn)) for turn in zip_longest(*kept.values()))
    report.right = [found for turn in turns for _, _, found in turn][:keep]
    return report
