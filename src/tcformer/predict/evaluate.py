"""Ask a network about a folder of pictures whose classes are known, and keep what matters."""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tcformer.data.folder import FolderSource
from tcformer.errors import UserError
from tcformer.images import is_hidden
from tcformer.predict.classes import Matching, match_names
from tcformer.predict.confusion import Confusion
from tcformer.predict.predict import DECIMALS, probabilities_each
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
    """What a network said of one picture, and what it is."""

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
    """The pictures of a folder that holds a folder for each class.

    Args:
        folder: that one, or the folder above it, in which it is called `val`.

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
    except NotADirectoryError:
        raise UserError(
            f"{path} is a file: name a folder that holds a folder of pictures for each class"
        ) from None
    except OSError as error:
        raise UserError(f"the folder {path} cannot be read: {error.strerror or error}") from None
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

    Args:
        loaded: a classifier.
        folders: the names of the class folders.
        where: the folder they are in, for messages.

    Raises:
        UserError: a folder is none of the network's classes, or nobody can know which.
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
    """Ask about every picture of a folder; memory does not grow with their number.

    Args:
        loaded: a classifier.
        source: the pictures.
        matching: which score stands for which class.
        keep: how many answers to keep to be looked at, right ones and wrong ones.
        unreadable: is told the name of what cannot be read, and why; it is left out.
        each: is told every answer, in the order of the files.
        **options: `batch_size`, `workers` and `amp` of `predict_each`.

    Raises:
        UserError: a picture cannot be read (without `unreadable`), or scores are not numbers.
    """
    count = loaded.num_classes
    counts = np.zeros((count, count), np.int64)
    report = Report(Confusion(counts, matching.names))
    wrong = _Best(keep)
    right: dict[int, _Best] = {}

    def left_out(name: str, reason: str) -> None:
        report.unread += 1
        if unreadable is None:
            raise UserError(f"cannot read {name}: {reason}")
        unreadable(name, reason)

    answers = _answers(loaded, source, matching, unreadable=left_out, **options)
    for order, answer in enumerate(answers):
        counts[answer.truth, answer.answer] += 1
        best = right.setdefault(answer.truth, _Best(keep)) if answer.right else wrong
        best.add(answer, order)
        if each is not None:
            each(answer)
    report.wrong = [answer for _, _, answer in wrong.ranked()]
    report.right = _in_turn([best.ranked() for best in right.values()])[:keep]
    return report


_Ranked = tuple[float, int, LabeledPrediction]
"""Confidence, minus the place in the order of the files (so that ties go to the first), answer."""


class _Best:
    """The most confident of many answers, `most` of them at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[_Ranked] = []

    def add(self, answer: LabeledPrediction, order: int) -> None:
        entry = (answer.probability, -order, answer)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        elif self._heap:
            heapq.heappushpop(self._heap, entry)

    def ranked(self) -> list[_Ranked]:
        return sorted(self._heap, reverse=True)


def _in_turn(classes: list[list[_Ranked]]) -> list[LabeledPrediction]:
    """The best of each class, the more confident first; then the second of each, and so on."""
    chosen: list[LabeledPrediction] = []
    for rank in range(max(map(len, classes), default=0)):
        turn = sorted((best[rank] for best in classes if rank < len(best)), reverse=True)
        chosen += [answer for _, _, answer in turn]
    return chosen


def _answers(
    loaded: Loaded, source: FolderSource, matching: Matching, **options: Any
) -> Iterator[LabeledPrediction]:
    waiting: deque[tuple[str, int]] = deque()

    def pictures() -> Iterator[Picture]:
        for index in range(len(source)):
            path = source.describe(index)
            waiting.append((path, matching.places[int(source.files.labels[index])]))
            yield Picture(path, path)

    for name, row in probabilities_each(loaded, pictures(), **options):
        path, truth = waiting.popleft()
        while path != name:  # those before it could not be read
            path, truth = waiting.popleft()
        answer = int(row.argsort(descending=True, stable=True)[0])
        shares = [round(float(row[place]), DECIMALS) for place in (answer, truth)]
        yield LabeledPrediction(name, truth, answer, shares[0], shares[1])
