"""Randomness that belongs to the sample, not to the process that happens to load it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

# Names the streams apart, so that the shuffle, the augmentations and the mixing of one seed never
# share a sequence.
STREAM_SHUFFLE, STREAM_AUGMENT, STREAM_MIX = 0x5348, 0x4155, 0x4D49


def seed_words(*parts: int, count: int = 8) -> np.ndarray:
    """Hash integers of any size and sign into `count` words, (count,) uint32.

    A trailing zero changes nothing: give the same number of parts wherever results must differ.
    """
    entropy = [2 * p if p >= 0 else -2 * p - 1 for p in parts]
    return np.random.SeedSequence(entropy).generate_state(count, np.uint32)


def numpy_stream(*parts: int) -> np.random.RandomState:
    """A generator named by integers; RandomState, because its stream is frozen for ever."""
    return np.random.RandomState(seed_words(*parts))


@contextlib.contextmanager
def preserved_rng(*, numpy_only: bool = False) -> Iterator[None]:
    """Leave Python's, NumPy's and torch's (CPU) global generators as they were on entry.

    Loading in the main process (no workers) must not move the generators that dropout and drop path
    draw from, or a resumed run would differ from one that was never interrupted.
    """
    numpy_state = np.random.get_state()
    python_state = None if numpy_only else random.getstate()
    torch_state = None if numpy_only else torch.get_rng_state()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        if python_state is not None:
            random.setstate(python_state)
        if torch_state is not None:
            torch.set_rng_state(torch_state)


def seed_all(*parts: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generator from integers.

    `torch.manual_seed` is avoided on purpose: it would also reseed every GPU.
    """
    words = seed_words(*parts)
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))


class SeededDataset(Dataset):
    """Wrap a map-style data set so that an item depends on (seed, epoch, index) and nothing else.

    Keys are `(epoch, index)`, or `(epoch, index, repeat)` under repeated augmentation, as yielded
    by `ResumableSampler`. Before `dataset[index]` is called, Python's, NumPy's and torch's
    generators are seeded from the key; afterwards they are put back. The augmentations are
    therefore the same for any number of workers or processes and after any resume.
    """

    def __init__(self, dataset: Any, *, seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        epoch, index = key[:2]
        repeat = key[2] if len(key) > 2 else 0
        with preserved_rng():
            seed_all(STREAM_AUGMENT, self.seed, epoch, index, repeat)
            return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        # classes, describe and the like; dunders and our own fields must not recurse (unpickling).
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)
