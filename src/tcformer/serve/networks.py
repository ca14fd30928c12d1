"""What can be chosen on the page, and the few networks of it that are in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
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

    Labels are as short as they can be and still differ: a visitor learns no more of this machine's
    folders than needed.

    Raises:
        UserError: one of them is given twice.
    """
    for given in (models, checkpoints):
        twice = next((each for each in given if list(given).count(each) > 1), None)
        if twice is not None:
            raise UserError(f"{twice} is given twice: leave one out")
    return (
        *(
            Entry(label, None, checkpoint, ema)
            for label, checkpoint in zip(_short(checkpoints), checkpoints, strict=True)
        ),
        *(Entry(f"{name} (random)", name, None) for name in models),
    )


def _short(names: Sequence[str]) -> list[str]:
    """The last parts of each path, as many as tell it from the others."""
    parts = [[part for part in name.replace("\\", "/").split("/") if part] for name in names]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        tails = ["/".join(each[-depth:]) for each in parts]
        if len(set(tails)) == len(tails):
            return tails
    return list(names)


class Networks:
    """The choices of a page and, of those in use, the networks; safe for many threads."""

    def __init__(self, choices: Iterable[Entry], most: int = MOST_IN_MEMORY) -> None:
        self.entries = {entry.label: entry for entry in choices}
        self.most = most
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        self._open = True

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
        with self._lock:
            if entry.label not in self._loaded:
                while len(self._loaded) >= self.most:
                    self._loaded.popitem(last=False)
                self._loaded[entry.label] = self._load(entry)
            self._loaded.move_to_end(entry.label)
            return self._loaded[entry.label]

    def _load(self, entry: Entry) -> Loaded:
        try:
            return _load(entry)
        except UserError as problem:
            if entry.checkpoint is None or not self._open:
                raise
            # Visitors see the label, not where on this machine the file lies.
            raise UserError(str(problem).replace(entry.checkpoint, entry.label)) from problem

    def check(self) -> None:
        """Load every checkpoint once, so that a bad one is refused before anybody looks.

        Raises:
            UserError: one cannot be used; the sentence is that of `tcformer.predict.load`.
        """
        self._open = False
        for entry in self.entries.values():
            if entry.checkpoint is not None:
                self.get(entry.label)
        self._open = True

    def __len__(self) -> int:
        return len(self._loaded)


def _load(entry: Entry) -> Loaded:
    from tcformer.predict import load

    loaded = load(entry.model, entry.checkpoint, ema=entry.ema)
    _ = loaded.backbone  # another network of timm's has no tokens: say so now
    return loaded
