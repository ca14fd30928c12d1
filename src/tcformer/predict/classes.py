"""Names for classes: the training's own, ImageNet's, or numbers; and who is who among them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from tcformer.errors import UserError, nearest, shown

__all__ = ["Matching", "class_names", "match_names"]

_SYNSET = re.compile(r"n\d{8}")
_IMAGENET = 1000


def class_names(recorded: tuple[str, ...] | None, count: int) -> tuple[tuple[str, ...], list[str]]:
    """The name of each of `count` classes, and sentences about what had to be assumed.

    Recorded names are taken as they are, except that ImageNet's folder names ("n01440764") become
    words. Without recorded names 1000 classes are taken for ImageNet's, and any other number is
    named "class 0", "class 1" and so on. The words are timm's, and come with it.
    """
    numbers = tuple(f"class {i}" for i in range(count))
    if recorded and len(recorded) <= count:
        words = _synsets() if all(map(_SYNSET.fullmatch, recorded)) else {}
        return tuple(words.get(name, name) for name in (*recorded, *numbers[len(recorded) :])), []
    notes = []
    if recorded:
        notes.append(
            f"{len(recorded)} class names are recorded for {count} classes, so none of them is used"
        )
    if count == _IMAGENET:
        notes.append("no class names are recorded: 1000 classes are taken for ImageNet's")
        return _imagenet()[1], notes
    if count:
        notes.append("no class names are recorded, so classes go by their numbers")
    return numbers, notes


@cache
def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of ImageNet's 1000 folders, and words for them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.label_names()), tuple(info.label_descriptions())


@cache
def _synsets() -> dict[str, str]:
    from timm.data import ImageNetInfo

    described = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    assert isinstance(described, dict)
    return {**described, **dict(zip(*_imagenet(), strict=True))}


class Matching(NamedTuple):
    """Which score of a network stands for which class of the data."""

    places: tuple[int, ...]
    """for each class of the data its number among the scores"""
    names: tuple[str, ...]
    """of all of the network's classes, as folders are called"""
    words: tuple[str, ...]
    """of all of the network's classes, for people"""
    notes: tuple[str, ...]
    """what had to be assumed, sentences without their full stops"""


def match_names(
    folders: Sequence[str],
    recorded: Sequence[str] | None,
    count: int,
    *,
    weights: str,
    where: str,
    words: tuple[str, ...] | None = None,
    numbered: bool = False,
) -> Matching:
    """Find each class of the data among the classes of a network, by its name, whatever the order.

    This is the one rule for every verb. Names are those that the weights record, or ImageNet's;
    where the weights record none, or the data has bare numbers, the classes go by their order.

    `folders` are the names of the classes of the data, and `recorded` those in the file of weights,
    in the order of its `count` scores. `words` are names for people; None for `class_names`.
    `numbered` says that the data does not name its classes: they are positions. Messages call the
    file `weights` and the data `where`.

    Raises:
        UserError: a class of the data is none of the network's, or nobody can know which.
    """
    named = bool(recorded) and len(recorded or ()) <= count
    names = tuple(recorded or ()) if named else ()
    words = words if words is not None else class_names(names or None, count)[0]
    full = (*names, *(f"class {i}" for i in range(len(names), count))) if named else ()
    if named and tuple(folders) in (names, full):
        return Matching(tuple(range(len(folders))), full, words, ())
    if numbered and len(folders) <= count:
        return Matching(tuple(range(len(folders))), full or words, words, ())
    lists = [full] if named else []
    if count == _IMAGENET and words == _imagenet()[1]:
        lists.append(_imagenet()[0])
    if named and words not in lists:
        lists.append(words)
    for known in lists:
        found = _find(folders, known)
        if -1 in found:
            continue
        if len(set(found)) < len(found):
            raise UserError(f"two folders of {where} have one name, spelt in two ways of Unicode")
        absent = [known[i] for i in sorted(set(range(len(names) or count)) - set(found))]
        some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        note = f"{len(absent)} of the {count} classes of {weights} have no pictures in {where}"
        return Matching(found, known, words, (f"{note}: {some}",) if absent else ())
    if not named and len(folders) == count:
        note = f"{weights} records no class names: its classes are taken for those of {where}"
        given = tuple(folders)
        return Matching(tuple(range(count)), given, given, (f"{note}, in their order",))
    if not lists:
        raise UserError(
            f"{weights} records no names for its {count} classes, and {where} has {len(folders)} "
            "classes, so nobody can tell which is which: give weights that record them (as those "
            "of `tcformer train` do), or data with all of its classes"
        )
    known, places = lists[0], _find(folders, lists[0])
    unknown = [name for name, place in zip(folders, places, strict=True) if place < 0]
    first = (unknown or folders)[0]
    guess = nearest(first, known) if len(known) <= _IMAGENET else None
    some = ", ".join(map(shown, known[:3])) + (", ..." if len(known) > 3 else "")
    hint = f"did you mean {shown(guess)}? It" if guess else "it"
    raise UserError(
        f"{len(unknown)} of the {len(folders)} classes of {where} are none of those of "
        f"{weights}, such as {shown(first)}; {hint} knows {some}: rename them, or give the "
        "weights that were trained on them"
    )


def _find(folders: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Where each folder stands among the names; -1 for none, and where two names are alike.

    Unicode spells some names in two ways, and macOS and Linux differ in which: where a name is not
    found as it is, its composed form is.
    """
    places: dict[str, int] = {}
    for spelled in (_composed, str):
        seen: dict[str, int] = {}
        for place, name in enumerate(names):
            seen[spelled(name)] = -1 if spelled(name) in seen else place
        places |= seen
    return tuple(places.get(name, places.get(_composed(name), -1)) for name in folders)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
