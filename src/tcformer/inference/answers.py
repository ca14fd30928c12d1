"""Ask a network about a folder of pictures whose classes are known, and keep what matters."""

from __future__ import annotations

import heapq
import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tcformer.data.folder import FolderSource
from tcformer.errors import UserError, nearest, shown
from tcformer.images import is_hidden
from tcformer.inference.classes import class_names
from tcformer.inference.confusion import Confusion
from tcformer.inference.pictures import Picture
from tcformer.inference.predicting import DECIMALS, probabilities_each

if TYPE_CHECKING:
    from tcformer.inference.loading import Loaded

__all__ = ["Answer", "Examined", "Matching", "examine", "labelled_folder", "match_classes"]

_IMAGENET = 1000


class Answer(NamedTuple):
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


class Matching(NamedTuple):
    """Which score of the network stands for which class folder."""

    places: tuple[int, ...]
    """for each folder the number of its class"""
    names: tuple[str, ...]
    """of all of the network's classes, as folders are called"""
    words: tuple[str, ...]
    """of all of the network's classes, for people"""
    notes: tuple[str, ...]
    """what had to be assumed, sentences without their full stops"""


@dataclass
class Examined:
    """The outcome of `examine`.

    Attributes:
        confusion: truth against answer, over all classes of the network.
        right: right answers to look at: the most confident one of each class, then the second of
            each, and so on.
        wrong: the wrong answers of which the network was most certain.
        unread: pictures that were left out because they cannot be read.
    """

    confusion: Confusion
    right: list[Answer] = field(default_factory=list)
    wrong: list[Answer] = field(default_factory=list)
    unread: int = 0


def labelled_folder(folder: str | os.PathLike[str]) -> FolderSource:
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
    """Find each class folder among the classes of a network, by its name.

    Names are those that the weights record, or ImageNet's; where the weights record none, folders
    in sorted order stand for the classes if there are as many of both.

    Args:
        loaded: a classifier.
        folders: the names of the class folders.
        where: the folder they are in, for messages.

    Raises:
        UserError: a folder is none of the network's classes, or nobody can know which.
    """
    count, weights = loaded.num_classes, loaded.source or loaded.name
    lists = _lists_of_names(loaded)
    for names in lists:
        places = _places(names)
        found = [places.get(name, places.get(_composed(name), -1)) for name in folders]
        if -1 not in found:
            notes = []
            if len(set(found)) < len(found):
                raise UserError(
                    f"two folders of {where} have one name, spelt in two ways of Unicode"
                )
            absent = [names[i] for i in sorted(set(range(count)) - set(found))]
            if absent:
                some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
                notes.append(
                    f"{len(absent)} of the {count} classes of {weights} have no pictures in "
                    f"{where}: {some}"
                )
            return Matching(tuple(found), names, loaded.classes, tuple(notes))
    if not loaded.named and len(folders) == count:
        note = f"{weights} records no class names: its classes are taken for the folders of {where}"
        return Matching(
            tuple(range(count)), tuple(folders), tuple(folders), (f"{note}, in sorted order",)
        )
    if not lists:
        raise UserError(
            f"{weights} records no names for its {count} classes, and {where} has {len(folders)} "
            "class folders, so nobody can tell which is which: give weights that record them (as "
            "those of `tcformer train` do), or a folder for each class"
        )
    raise _unknown(lists[0], folders, weights, where)


def _unknown(names: Sequence[str], folders: Sequence[str], weights: str, where: str) -> UserError:
    places = _places(names)
    unknown = [name for name in folders if name not in places and _composed(name) not in places]
    first = unknown[0] if unknown else folders[0]
    guess = nearest(first, names) if len(names) <= _IMAGENET else None
    some = ", ".join(map(shown, names[:3])) + (", ..." if len(names) > 3 else "")
    hint = f"did you mean {shown(guess)}? It" if guess else "it"
    return UserError(
        f"{len(unknown)} of the {len(folders)} class folders of {where} are none of the classes of "
        f"{weights}, such as {shown(first)}; {hint} knows {some}: rename the folders, or give the "
        "weights that were trained on them"
    )


def _lists_of_names(loaded: Loaded) -> list[tuple[str, ...]]:
    """What the classes may be called, the likeliest first."""
    lists: list[tuple[str, ...]] = []
    count = loaded.num_classes
    if loaded.recorded:
        more = (f"class {i}" for i in range(len(loaded.recorded), count))
        lists.append((*loaded.recorded, *more))
    if count == _IMAGENET and loaded.classes == class_names(None, _IMAGENET)[0]:
        from timm.data import ImageNetInfo

        lists.append(tuple(ImageNetInfo("imagenet-1k").label_names()))
    if loaded.named and loaded.classes not in lists:
        lists.append(loaded.classes)
    return lists


def _places(names: Sequence[str]) -> dict[str, int]:
    """Where each name stands, as it is and in Unicode's composed form; none for two alike."""
    places: dict[str, int] = {}
    for spelt in (_composed, str):
        seen: dict[str, int] = {}
        for place, name in enumerate(names):
            seen[spelt(name)] = -1 if spelt(name) in seen else place
        places |= seen
    return places


def _composed(name: str) -> str:
    """One spelling of what Unicode spells in two ways: macOS and Linux differ in folder names."""
    return unicodedata.normalize("NFC", name)


def examine(
    loaded: Loaded,
    source: FolderSource,
    matching: Matching,
    *,
    keep: int = 12,
    batch_size: int = 16,
    workers: int | None = None,
    amp: str = "off",
    unreadable: Callable[[str, str], None] | None = None,
    each: Callable[[Answer], None] | None = None,
) -> Examined:
    """Ask about every picture of a folder; memory does not grow with their number.

    Args:
        loaded: a classifier.
        source: the pictures.
        matching: which score stands for which class.
        keep: how many answers to keep to be looked at, right ones and wrong ones.
        batch_size: as in `predict_each`.
        workers: as in `predict_each`.
        amp: as in `predict_each`.
        unreadable: is told the name of what cannot be read, and why; it is left out.
        each: is told every answer, in the order of the files.

    Raises:
        UserError: a picture cannot be read (without `unreadable`), or scores are not numbers.
    """
    count = loaded.num_classes
    counts = np.zeros((count, count), np.int64)
    outcome = Examined(Confusion(counts, matching.names))
    wrong = _Best(keep)
    right: dict[int, _Best] = {}

    def left_out(name: str, reason: str) -> None:
        outcome.unread += 1
        if unreadable is None:
            raise UserError(f"cannot read {name}: {reason}")
        unreadable(name, reason)

    answers = _answers(
        loaded, source, matching, batch_size=batch_size, workers=workers, amp=amp,
        unreadable=left_out,
    )  # fmt: skip
    for order, answer in enumerate(answers):
        counts[answer.truth, answer.answer] += 1
        best = right.setdefault(answer.truth, _Best(keep)) if answer.right else wrong
        best.add(answer, order)
        if each is not None:
            each(answer)
    outcome.wrong = [answer for _, _, answer in wrong.ranked()]
    outcome.right = _in_turn([best.ranked() for best in right.values()])[:keep]
    return outcome


_Ranked = tuple[float, int, Answer]
"""Confidence, minus the place in the order of the files (so that ties go to the first), answer."""


class _Best:
    """The most confident of many answers, `most` of them at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[_Ranked] = []

    def add(self, answer: Answer, order: int) -> None:
        entry = (answer.probability, -order, answer)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        elif self._heap:
            heapq.heappushpop(self._heap, entry)

    def ranked(self) -> list[_Ranked]:
        return sorted(self._heap, reverse=True)


def _in_turn(classes: list[list[_Ranked]]) -> list[Answer]:
    """The best of each class, the more confident first; then the second of each, and so on."""
    chosen: list[Answer] = []
    for rank in range(max(map(len, classes), default=0)):
        turn = sorted((best[rank] for best in classes if rank < len(best)), reverse=True)
        chosen += [answer for _, _, answer in turn]
    return chosen


def _answers(
    loaded: Loaded, source: FolderSource, matching: Matching, **options: Any
) -> Iterator[Answer]:
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
        yield Answer(name, truth, answer, shares[0], shares[1])
