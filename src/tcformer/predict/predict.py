"""Predict classes for pictures: one at a time, many, or a stream without end."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tcformer.errors import UserError, printable
from tcformer.images import UnreadableImageError, read_picture
from tcformer.models import TCFormer
from tcformer.predict.sources import Report, each_picture

if TYPE_CHECKING:
    from tcformer.predict.loaded import Loaded

__all__ = ["AMP", "Guess", "Prediction", "check_topk", "predict_each", "probabilities_each"]

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
DECIMALS = 4
"""Of probabilities when they are written: further ones depend on machine and size of the batch."""

_NO_CLASSIFIERS = {
    "segmentation": "a segmentation model, which names a class for each pixel and none for the "
    "picture; give a classifier, or look at its tokens with `tcformer show`",
    "detection": "a detector, which finds objects and names no class for the picture; give a "
    "classifier, or look at its tokens with `tcformer show`",
}


@dataclass(frozen=True)
class Guess:
    """One class and how probable the network finds it.

    Attributes:
        index: of the class, from 0.
        name: of the class.
        probability: 0 to 1, softmax over all classes.
    """

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a network predicts for one picture.

    Attributes:
        image: the path, or "image 0" and so on for pictures that came without one.
        guesses: the best classes, the most probable first.
    """

    image: str
    guesses: tuple[Guess, ...]

    @property
    def best(self) -> Guess:
        """The most probable class."""
        return self.guesses[0]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: probabilities are rounded to four decimals."""
        return {
            "image": self.image,
            "predictions": [
                {"class": g.index, "name": g.name, "probability": round(g.probability, DECIMALS)}
                for g in self.guesses
            ],
        }

    def __str__(self) -> str:
        lines = [printable(self.image)]
        for guess in self.guesses:
            percent = 100 * round(guess.probability, DECIMALS)
            lines.append(f"  {percent:6.2f} %  {printable(guess.name)} ({guess.index})")
        return "\n".join(lines)


def check_topk(loaded: Loaded, topk: int | None) -> int:
    """The number of guesses: `topk`, or 5, or all classes where there are fewer.

    Raises:
        UserError: there are not so many classes, or the network has no classifier.
    """
    where, count = loaded.source or loaded.name, loaded.num_classes
    if loaded.task in _NO_CLASSIFIERS:
        raise UserError(f"{where} is {_NO_CLASSIFIERS[loaded.task]}")
    if not count:
        raise UserError(f"{where} is a backbone without a classifier, so it cannot name classes")
    if topk is None:
        return min(5, count)
    if not 1 <= topk <= count:
        raise UserError(f"--topk is {topk}, but {where} knows {count} classes")
    return topk


def predict_each(
    loaded: Loaded, images: Any, *, topk: int | None = None, **options: Any
) -> Iterator[Prediction]:
    """Predict picture after picture, in their order; memory does not grow with their number.

    Args:
        loaded: a classifier.
        images: what `each_picture` takes.
        topk: number of guesses for each; None for 5, or fewer where there are fewer classes.
        **options: those of `probabilities_each`.

    Raises:
        UserError: a picture cannot be read (without `unreadable`), an argument is wrong, or the
            network's scores are not numbers.
    """
    topk = check_topk(loaded, topk)
    rows = probabilities_each(loaded, images, **options)  # refuses before the first picture

    def predicted() -> Iterator[Prediction]:
        for name, row in rows:
            best = row.argsort(descending=True, stable=True)[:topk].tolist()
            guesses = (Guess(i, loaded.classes[i], float(row[i])) for i in best)
            yield Prediction(name, tuple(guesses))

    return predicted()


def probabilities_each(
    loaded: Loaded,
    images: Any,
    *,
    batch_size: int = 16,
    workers: int | None = None,
    amp: str = "off",
    unreadable: Report | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The name of each picture and the probability of every class, (C,) float64 on the CPU.

    `batch_size` pictures pass the network together; the results do not depend on it (see
    docs/predict.md for the last digits). `workers` threads read and resize files ahead: None for
    one a core, 0 for none. `unreadable` is told the name of what cannot be read, and why; without
    it that is a `UserError`.
    """
    check_topk(loaded, None)
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}, but at least 1 is meant")
    if amp not in AMP:
        raise UserError(f"--amp is {amp!r}, but one of {', '.join(AMP)} is meant")
    workers = os.cpu_count() or 1 if workers is None else workers
    if not 0 <= workers <= 64:
        raise UserError(f"--workers is {workers}, but 0 to 64 is meant")
    ahead = batch_size + 2 * workers if workers else 0
    ready = _prepared(loaded, images, workers, ahead, unreadable or refuse_unreadable)

    def rows() -> Iterator[tuple[str, Tensor]]:
        while batch := list(islice(ready, batch_size)):
            yield from _probabilities(loaded, batch, AMP[amp])

    return rows()


def refuse_unreadable(name: str, reason: str) -> None:
    """Refuse a picture that cannot be read, where nobody is told of it."""
    raise UserError(f"cannot read {name}: {reason}")


def _prepared(
    loaded: Loaded, images: Any, workers: int, ahead: int, report: Report
) -> Iterator[tuple[str, Tensor]]:
    """Names and network inputs in order; threads read files, `ahead` of them at most."""

    def read(source: Any) -> Tensor | UnreadableImageError:
        try:
            return loaded.preprocessing(read_picture(source))
        except UnreadableImageError as error:
            return error

    Read = Tensor | UnreadableImageError
    waiting: deque[tuple[str, Read | Future[Read]]] = deque()

    def first() -> Iterator[tuple[str, Tensor]]:
        name, found = waiting.popleft()
        found = found.result() if isinstance(found, Future) else found
        if isinstance(found, UnreadableImageError):
            report(name, str(found))
        else:
            yield name, found

    pool = ThreadPoolExecutor(max(1, workers))  # starts its threads when they are needed
    try:
        for name, source in each_picture(images, report):
            # What is in memory may be in it twice, and a PIL image reads its file only when used.
            threaded = workers and isinstance(source, (str, os.PathLike, bytes))
            waiting.append((name, pool.submit(read, source) if threaded else read(source)))
            if len(waiting) > ahead:
                yield from first()
        while waiting:
            yield from first()
    finally:
        pool.shutdown(cancel_futures=True)


def _probabilities(
    loaded: Loaded, batch: list[tuple[str, Tensor]], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    inputs = torch.stack([ready for _, ready in batch]).to(loaded.device)
    precision: AbstractContextManager[Any] = (
        nullcontext() if dtype is None else torch.autocast(loaded.device.type, dtype)
    )
    with torch.inference_mode(), precision:
        scores = _scores(loaded.network, inputs)
    # In float64: the probabilities of a thousand classes add up to one.
    probabilities = scores.double().softmax(dim=1).cpu()
    for (name, _), row in zip(batch, probabilities, strict=True):
        if not bool(torch.isfinite(row).all()):
            raise UserError(
                f"the scores for {name} are not finite: the weights are damaged, or --amp is too "
                "narrow for them"
            )
        yield name, row


def _scores(network: torch.nn.Module, batch: Tensor) -> Tensor:
    """(B, classes). On a CPU a product of one row is summed otherwise than one of several."""
    if not isinstance(network, TCFormer) or batch.device.type != "cpu":
        scores: Tensor = network(batch)
        return scores
    features = network.forward_features(batch)
    return torch.cat([network.forward_head(one[None]) for one in features])
