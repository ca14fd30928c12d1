"""What can be chosen on the page, and the few networks of it that are in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from tcformer.errors import UserError

if TYPE_CHECKING:
    from tcformer.predict import Loaded

MOST_IN_MEMORY = 4
"""Networks kept loaded; the largest of ours takes 250 MB."""


class Entry(NamedTuple):
    """One choice: a variant with random weights, or a checkpoint given on the command line."""

    label: str
    model: str | None
    checkpoint: str | None
    ema: bool | None = None
    """as for `tcformer.predict.load`"""


def entries(
    models: Sequence[str], checkpoints: Sequence[str], ema: bool | None = None
) -> tuple[Entry, ...]:
    """The choices in the order they are offered: checkpoints, then models with random weights.

    A checkpoint's label is the end of its path, as short as it can be and still differ from the
    others: a visitor learns no more of this machine's folders than needed.

    Raises:
        UserError: one of them is given twice.
    """
    for given in (models, checkpoints):
        twice = next((each for each in given if list(given).count(each) > 1), None)
        if twice is not None:
            raise UserError(f"{twice} is given twice: leave one out")
    parts = [[part for part in name.replace("\\", "/").split("/") if part] for name in checkpoints]
    labels = list(checkpoints)
    for depth in range(max(map(len, parts), default=0), 0, -1):
        tails = ["/".join(each[-depth:]) for each in parts]
        labels = tails if len(set(tails)) == len(tails) else labels
    return (
        *(Entry(label, None, name, ema) for label, name in zip(labels, checkpoints, strict=True)),
        *(Entry(f"{name} (random)", name, None) for name in models),
    )


class Networks:
    """The choices of a page and, of those in use, the networks.

    One thread asks at a time: `page.Desk` sees to it.
    """

    def __init__(self, choices: Iterable[Entry], most: int = MOST_IN_MEMORY) -> None:
        self.entries = {entry.label: entry for entry in choices}
        self._load = lru_cache(most)(_load)

    @property
    def labels(self) -> list[str]:
        """What can be chosen."""
        return list(self.entries)

    def get(self, label: object) -> Loaded:
        """The network of a choice, loaded when it is asked for.

        Raises:
            UserError: there is no such choice, or its file cannot be read (any more).
        """
        entry = self.entries.get(label) if isinstance(label, str) else None
        if entry is None:
            raise UserError("this model is not among those that can be chosen: choose another")
        try:
            return self._load(entry)
        except UserError as problem:
            # Visitors see the label, not where on this machine the file lies.
            told = str(problem).replace(entry.checkpoint or entry.label, entry.label)
            raise UserError(told) from problem

    def check(self) -> None:
        """Load every checkpoint once, so that a bad one is refused before anybody looks.

        Raises:
            UserError: one cannot be used; the sentence is that of `tcformer.predict.load`.
        """
        for entry in self.entries.values():
            if entry.checkpoint is not None:
                self._load(entry)


def _load(entry: Entry) -> Loaded:
    from tcformer.predict import load

    loaded = load(entry.model, entry.checkpoint, ema=entry.ema)
    _ = loaded.backbone  # another network of timm's has no tokens: say so now
    return loaded
