"""Truth against answer: how often each class was taken for which other one."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError, shown

__all__ = ["ClassResult", "Confusion", "Mistake", "confusion_matrix", "wilson"]

Z95 = 1.959963984540054
"""Standard deviations to each side that hold 95 % of a normal distribution."""

CLASS_COLUMNS = (
    "class", "name", "pictures", "answered", "right", "recall", "recall_low", "recall_high",
    "precision", "precision_low", "precision_high", "f1",
)  # fmt: skip


def wilson(hits: int, of: int, z: float = Z95) -> tuple[float, float] | None:
    """The interval of a proportion by E. B. Wilson (1927); None of nothing.

    It stays within 0 and 1, also for few pictures and for all right: 10 of 10 is 0.72 to 1. `z`
    counts standard deviations to each side; the default holds 95 %.
    """
    if not 0 <= hits <= of:
        raise ValueError(f"{hits} of {of} is no share: give 0 <= hits <= of")
    if not of:
        return None
    share, spread = hits / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    reach = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    low = 0.0 if not hits else middle - reach  # not 1e-17
    return low, 1.0 if hits == of else middle + reach


class ClassResult(NamedTuple):
    """How one class fared. Shares are None where they are of nothing."""

    number: int
    name: str
    pictures: int
    """of this class"""
    answered: int
    """pictures, of any class, that got this answer"""
    right: int
    """pictures of this class that got this answer"""

    @property
    def recall(self) -> float | None:
        """Share of the class's pictures that were answered right: the accuracy of the class."""
        return self.right / self.pictures if self.pictures else None

    @property
    def precision(self) -> float | None:
        """Share of the pictures with this answer for which it is right."""
        return self.right / self.answered if self.answered else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of the two."""
        both = self.pictures + self.answered
        return 2 * self.right / both if both else None


class Mistake(NamedTuple):
    """So many pictures of one class were taken for another."""

    truth: int
    answer: int
    pictures: int


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix with the names of its classes.

    Attributes:
        counts: (C, C) int64; `counts[t, a]` pictures of class t got the answer a.
        classes: C names, in the order of the network's scores. Two may be alike.
    """

    counts: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.counts.shape != (len(self.classes), len(self.classes)) or not self.classes:
            raise UserError(
                f"a confusion matrix of {len(self.classes)} classes is no array {self.counts.shape}"
            )

    @property
    def pictures(self) -> int:
        """How many pictures were answered."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """How many of them were answered right."""
        return int(np.trace(self.counts))

    @property
    def accuracy(self) -> float | None:
        """Share of all pictures that was answered right; None of none."""
        return self.right / self.pictures if self.pictures else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the accuracy (`wilson`)."""
        return wilson(self.right, self.pictures)

    @property
    def mean_recall(self) -> float | None:
        """The mean of the classes' recalls: every class counts alike, however few its pictures."""
        recalls = [row.recall for row in self.per_class() if row.recall is not None]
        return sum(recalls) / len(recalls) if recalls else None

    def per_class(self) -> list[ClassResult]:
        """One result for each class, in their order."""
        sums = (self.counts.sum(axis=1), self.counts.sum(axis=0), np.diagonal(self.counts))
        rows = zip(self.classes, *(numbers.tolist() for numbers in sums), strict=True)
        return [ClassResult(index, *row) for index, row in enumerate(rows)]

    def mistakes(self, most: int | None = None) -> list[Mistake]:
        """Which classes were taken for which, the most frequent first, ties in their order."""
        truths, answers = np.nonzero(self.counts - np.diag(np.diagonal(self.counts)))
        counts = self.counts[truths, answers]
        order = np.lexsort((answers, truths, -counts))[:most]
        return [
            Mistake(*map(int, found))
            for found in zip(truths[order], answers[order], counts[order], strict=True)
        ]

    def occurring(self) -> NDArray[np.int64]:
        """The classes that have a picture or were an answer, in their order."""
        return np.nonzero(self.counts.sum(axis=0) + self.counts.sum(axis=1))[0]

    def matrix_csv(self) -> Iterator[str]:
        """The matrix, line by line: a row for each truth, a column for each answer."""
        names = distinct(self.classes)
        yield csv_line(["truth \\ answer", *names])
        for name, row in zip(names, self.counts, strict=True):
            yield csv_line([name, *row.tolist()])

    def classes_csv(self) -> Iterator[str]:
        """What `per_class` tells, line by line; shares with four decimals, empty if of nothing."""
        yield csv_line(CLASS_COLUMNS)
        for row in self.per_class():
            shares: list[float | None] = []
            for share, of in ((row.recall, row.pictures), (row.precision, row.answered)):
                shares += [share, *(wilson(row.right, of) or (None, None))]
            texts = ("" if share is None else f"{share:.4f}" for share in (*shares, row.f1))
            yield csv_line([*row, *texts])


def confusion_matrix(truths: Any, answers: Any, classes: Sequence[str] | int) -> Confusion:
    """Count truths against answers.

    Args:
        truths: (N,) the class of each picture: numbers from 0, or names; array, tensor or list.
        answers: (N,) what was answered, likewise.
        classes: the names of the classes, in their order, or how many there are.

    Raises:
        UserError: the two are of different length, or hold what is no class.
    """
    names = [f"class {i}" for i in range(classes)] if isinstance(classes, int) else classes
    one, other = (_numbers(given, names) for given in (truths, answers))
    if len(one) != len(other):
        raise UserError(f"there are {len(one)} truths and {len(other)} answers: give one for each")
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (one, other), 1)
    return Confusion(counts, tuple(names))


def _numbers(given: Any, names: Sequence[str]) -> NDArray[np.int64]:
    values = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    if values.ndim != 1:
        raise UserError(f"truths and answers are a class for each picture, not {values.shape}")
    if values.dtype.kind in "UO":
        places = {name: place for place, name in enumerate(names)}
        if len(places) < len(names):
            raise UserError("two classes have the same name, so give numbers and not names")
        unknown = next((value for value in values.tolist() if value not in places), None)
        if unknown is not None:
            raise UserError(f"{shown(unknown)} is none of the {len(names)} classes")
        values = np.array([places[value] for value in values.tolist()], np.int64)
    if values.dtype.kind not in "iu" and values.size:
        raise UserError(f"classes are whole numbers or names, not {values.dtype}")
    outside = values[(values < 0) | (values >= len(names))]
    if outside.size:
        raise UserError(f"{outside[0]} is no class: there are {len(names)}, numbered from 0")
    return values.astype(np.int64)


def distinct(names: Sequence[str]) -> list[str]:
    """The names; those that occur twice with their number behind, as columns need it."""
    counts = Counter(names)
    return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names)]


def csv_line(values: Iterable[object]) -> str:
    """One line of CSV with its end; whatever a name holds is quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
