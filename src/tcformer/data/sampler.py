"""Which image comes when: an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from tcformer.data.seeding import STREAM_SHUFFLE, numpy_stream
from tcformer.errors import UserError


class ResumableSampler(Sampler):
    """Yield `(epoch, index)` keys, one per image of this process, resumable at any batch.

    An epoch is one permutation of all indices drawn from (seed, epoch), cut into global batches of
    `batch_size * world_size`. Process r takes every `world_size`-th entry of each global batch,
    starting with entry r. The images of a global batch are therefore the same for every way of
    sharing it out over processes.

    With `repeats` = R > 1 (repeated augmentation, Hoffer et al. 2020, as in DeiT) each entry of
    the permutation appears R times in a row, as `(epoch, index, 0)` .. `(epoch, index, R-1)`,
    and the epoch still has as many entries as there are images: it shows the first 1/R of the
    permutation. The R versions differ in augmentation and, being neighbours, go to different
    processes where there are several. A group is never split over two global batches when the
    global batch is a multiple of R.

    Args:
        length: number of images in the data set.
        batch_size: images per process and batch.
        shuffle: False keeps the order of the data set.
        epoch, start_batch: where to start; change them with `set_epoch`.
        drop_last: drop the last incomplete global batch. When kept, it is shared out over the
            processes; where it has fewer images than processes, it is filled up to one image each
            from the beginning of the epoch's order.

    Raises:
        UserError: no image at all, or fewer than one global batch while `drop_last` is set.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        epoch: int = 0,
        start_batch: int = 0,
        drop_last: bool = True,
        repeats: int = 1,
    ) -> None:
        if batch_size < 1 or world_size < 1 or repeats < 1:
            raise UserError(
                f"The batch size ({batch_size}), the number of processes ({world_size}) and the "
                f"repeats ({repeats}) must each be at least 1."
            )
        if not 0 <= rank < world_size:
            raise UserError(f"Process rank {rank} does not exist among {world_size} processes.")
        if length < 1:
            raise UserError("The training set has no images: check --data-path.")
        self.length, self.batch_size = length, batch_size
        self.world_size, self.rank, self.seed = world_size, rank, seed
        self.shuffle, self.drop_last, self.repeats = shuffle, drop_last, repeats
        if drop_last and length < self.global_batch:
            size = length // world_size
            even = size - size % 2 or size  # mixup wants an even one too
            raise UserError(
                f"The training set has {length} images, fewer than one batch of {batch_size} on "
                f"each of {world_size} processes: "
                + (f"lower --batch-size to {even} or less." if even else "use fewer processes.")
            )
        self.set_epoch(epoch, start_batch)

    @property
    def _numbered(self) -> bool:
        """Whether an image may come more than once in an epoch, so that keys say which time."""
        return self.repeats > 1

    @property
    def global_batch(self) -> int:
        """Images per batch over all processes."""
        return self.batch_size * self.world_size

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, whatever `start_batch` is; the same on every process."""
        full, rest = divmod(self.length, self.global_batch)
        return full + (1 if rest and not self.drop_last else 0)

    @property
    def _total(self) -> int:
        """Entries of a whole epoch on all processes."""
        rest = self.length % self.global_batch
        if self.drop_last or not rest:
            return self.length - rest
        return self.length + max(0, self.world_size - rest)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch and the first batch to yield (0 .. `batches_per_epoch`)."""
        if epoch < 0 or not 0 <= start_batch <= self.batches_per_epoch:
            raise UserError(
                f"Cannot start at batch {start_batch} of epoch {epoch}: an epoch of this data set "
                f"has {self.batches_per_epoch} batches."
            )
        self.epoch, self.start_batch = epoch, start_batch

    def _order(self) -> np.ndarray:
        """The epoch's entries for all processes, (n, 2) int64: index, repeat."""
        if self.shuffle:
            order = numpy_stream(STREAM_SHUFFLE, self.seed, self.epoch).permutation(self.length)
        else:
            order = np.arange(self.length)
        entry = np.arange(self.length)
        pairs = np.stack([order[entry // self.repeats], entry % self.repeats], axis=1)
        return np.resize(pairs, (self._total, 2))  # which cuts it, or begins again

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        pairs = self._order()[self.start_batch * self.global_batch :]
        epoch, repeated = self.epoch, self._numbered
        # The global batch is a multiple of the number of processes, so one stride serves them all.
        for index, repeat in pairs[self.rank :: self.world_size].tolist():
            yield (epoch, index, repeat) if repeated else (epoch, index)

    def __len__(self) -> int:
        """Keys that iterating yields from `start_batch` on, for this process."""
        left = max(0, self._total - self.start_batch * self.global_batch)
        return len(range(self.rank, left, self.world_size))


class SteppedSampler(ResumableSampler):
    """Epochs of a given number of batches, cut out of one pass over the images after another.

    For recipes that count steps. Each pass is a permutation drawn from (seed, number of the pass);
    an epoch goes on where the one before stopped, in the middle of a pass or over several. Keys are
    `(epoch, index, pass)`.
    """

    def __init__(
        self, length: int, *, steps: int, batch_size: int, world_size: int, rank: int, seed: int
    ) -> None:
        if length < 1 or steps < 1:
            raise UserError(f"Cannot make {steps} steps with {length} training images.")
        self.images = length
        super().__init__(
            steps * batch_size * world_size,
            batch_size=batch_size,
            world_size=world_size,
            rank=rank,
            seed=seed,
        )

    @property
    def _numbered(self) -> bool:
        return True

    def _order(self) -> np.ndarray:
        places = self.epoch * self.length + np.arange(self.length)
        number = places // self.images
        passes = [
            numpy_stream(STREAM_SHUFFLE, self.seed, n).permutation(self.images)[
                places[number == n] % self.images
            ]
            for n in range(number[0], number[-1] + 1)
        ]
        return np.stack([np.concatenate(passes), number], axis=1)


def exact_eval_indices(
    length: int, batch_size: int, world_size: int = 1, rank: int = 0
) -> list[int]:
    """The indices that process `rank` evaluates: all processes together cover each image once.

    The images are cut into the same batches whatever the number of processes, and process r takes
    every `world_size`-th of them from r on. So an image always meets the same batch-mates: products
    of matrices may round differently in batches of another size, and a clustering that is nearly
    tied could follow. Nothing is padded; a process may have one batch more than another, or none.
    """
    if length < 0 or batch_size < 1 or not 0 <= rank < world_size:
        raise UserError(
            f"Cannot share {length} images in batches of {batch_size} out to process {rank} of "
            f"{world_size} processes."
        )
    starts = range(rank * batch_size, length, world_size * batch_size)
    return [i for start in starts for i in range(start, min(start + batch_size, length))]
