"""Batches, in the sampler's order and bit for bit the same with any number of workers."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tcformer.data.dataset import Item
from tcformer.data.sampler import ResumableSampler
from tcformer.data.seeding import SeededDataset
from tcformer.errors import UserError

_REFILL_ATTEMPTS = 64
# A connection breaks some moments before the death of the worker behind it can be seen.
_PATIENCE = 5.0
_started_by_main_thread = False  # what a worker that is forked finds
# Slurm and Ctrl-C signal every process of a job; a worker that died of it would take the main
# process along while that is saving a checkpoint. Workers end when the main process does.
_MAIN_PROCESS_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


class Batch(NamedTuple):
    """One batch of one process; lists where the images differ in size."""

    images: Any  # (B, C, H, W) float32, normalized, or B times (C, H, W); B >= 1
    targets: Any  # (B,) or (B, H, W) int64, or what each item has
    indices: Tensor  # (B,) int64, positions in the data set
    num_corrupt: int  # images left out because they could not be read


Collate = Callable[[list[Item], int], Any]


def listed(items: list[Item], num_corrupt: int) -> Batch:
    """Batch of images of any sizes."""
    return Batch(
        [item.image for item in items],
        [item.target for item in items],
        torch.tensor([item.position for item in items], dtype=torch.int64),
        num_corrupt,
    )


def stacked(items: list[Item], num_corrupt: int) -> Batch:
    """Batch of images of one size, with numbers or tensors of one size as targets."""
    images, targets, indices, _ = listed(items, num_corrupt)
    several = torch.stack([torch.as_tensor(target) for target in targets]).long()
    return Batch(torch.stack(images), several, indices, num_corrupt)


class _Loaded(NamedTuple):
    """What a worker sends."""

    batch: Any  # what `collate` makes; None if no image was readable
    corrupt: list[tuple[int, str, str]]  # position, name and reason of skipped images
    error: str


class _BatchReader(Dataset):
    """Reads a whole batch at once, so that errors travel as sentences instead of tracebacks."""

    def __init__(self, dataset: Any, *, refill: bool, collate: Collate) -> None:
        self.dataset, self.refill, self.collate = dataset, refill, collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[Any]) -> _Loaded:
        try:
            items = [self.dataset[key] for key in keys]
            good = [i for i in items if i.image is not None]
            if not good and self.refill:
                items += self._substitute(keys[0])
                good = [i for i in items if i.image is not None]
        except UserError as error:
            return _Loaded(None, [], str(error))
        named = [
            (i.position, self.dataset.describe(i.position), i.reason)
            for i in items
            if i.image is None
        ]
        if good:
            return _Loaded(self.collate(good, len(named)), named, "")
        problem = ""
        if self.refill:
            _, name, reason = named[0]
            problem = (
                f"None of {len(named)} images in a row can be read (the first is {name}: {reason}):"
                " check the data set and the disk."
            )
        return _Loaded(None, named, problem)

    def _substitute(self, key: tuple[int, ...]) -> list[Item]:
        """Up to the next readable image after an unreadable batch: no process may go without."""
        items: list[Item] = []
        for step in range(1, min(_REFILL_ATTEMPTS, len(self.dataset)) + 1):
            items.append(self.dataset[(key[0], (key[1] + step) % len(self.dataset), *key[2:])])
            if items[-1].image is not None:
                break
        return items


def _pass_through(loaded: Any) -> Any:
    return loaded


def _start_worker(_: int) -> None:
    if _started_by_main_thread and sys.platform == "linux":
        # A main process that is killed must not leave workers that hold its connections: the other
        # processes of the run would wait for it until torch's workers look, every five seconds.
        # (The kernel means the thread that started a process, hence the condition.)
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    for number in _MAIN_PROCESS_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """Obey SIGTERM from the main process only: that is how multiprocessing ends its children."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back while workers start, so that none arrives before they ignore it."""
    global _started_by_main_thread
    _started_by_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _MAIN_PROCESS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_loaders: weakref.WeakSet[BatchLoader] = weakref.WeakSet()  # those that have workers
_interruptible = False  # whether the main thread does nothing but wait for workers
_child_handler: Any = None


def check_workers() -> None:
    """Raise if a worker of any loader of this process has died, once for each loader.

    Loaders do so whenever they are asked for a batch; call it when you ask for no more.

    Raises:
        UserError: one has died.
    """
    for loader, worker in _dead_workers():
        if not loader.told:
            loader.told = True
            status = worker.exitcode
            by = f"signal {-status}" if status < 0 else f"status {status}"
            raise _death(f"process {worker.pid}, {by}")


def _dead_workers() -> list[tuple[BatchLoader, Any]]:
    return [(it, w) for it in list(_loaders) for w in it.workers if w.exitcode is not None]


def _someone_to_tell_of() -> bool:
    return any(not loader.told for loader, _ in _dead_workers())


def _death(what: str) -> UserError:
    return UserError(
        f"A data worker died ({what}): the machine has probably run out of memory or of shared "
        "memory, use fewer --num_workers."
    )


class _WorkerDied(Exception):
    """Raised by the handler of SIGCHLD in the main thread, and only while that waits."""


@contextmanager
def _awaited(*, interruptible: bool) -> Iterator[None]:
    """Turn the death of workers that the block waits for into a sentence.

    Where it is `interruptible`, a death ends the block at once, by an exception at any place.
    """
    global _interruptible
    check_workers()
    main = threading.current_thread() is threading.main_thread()
    try:
        _interruptible = interruptible and main
        try:
            yield
        finally:
            _interruptible = False
    except Exception as error:
        # What a worker has raised comes from there as well; all else may be its death.
        said = str(error)
        if "in DataLoader worker process" not in said and _within_patience(_someone_to_tell_of):
            check_workers()
        if said.startswith("DataLoader worker (pid"):  # it died while the others were started
            raise _death(said.splitlines()[0].rstrip(". ")) from error
        raise


def _within_patience(found: Callable[[], Any]) -> bool:
    """Whether `found()` becomes true within seconds; False at once where nobody has workers."""
    deadline = time.monotonic() + _PATIENCE
    while _loaders and time.monotonic() < deadline:
        if found():
            return True
        time.sleep(0.02)
    return False


def _defer_deaths() -> None:
    """Keep torch's handler of SIGCHLD from raising in the middle of a save or in a destructor."""
    global _child_handler
    theirs = signal.getsignal(signal.SIGCHLD)
    if threading.current_thread() is not threading.main_thread() or not callable(theirs):
        return
    if theirs is _child_handler:
        return

    def on_child(number: int, frame: FrameType | None) -> None:
        global _interruptible
        try:
            theirs(number, frame)
        except RuntimeError:
            if not _dead_workers():
                raise
        if _interruptible and _someone_to_tell_of() and not _in_destructor(frame):
            _interruptible = False
            raise _WorkerDied  # should something swallow it, the next batch tells

    _child_handler = on_child
    signal.signal(signal.SIGCHLD, on_child)
    before = threading.excepthook

    def on_thread(args: threading.ExceptHookArgs) -> None:
        # The thread that pins memory dies of a broken connection; the loader tells why.
        pins = "_pin_memory_loop" in getattr(args.thread, "name", "")
        if not (pins and _within_patience(_dead_workers)):
            before(args)

    threading.excepthook = on_thread


def _in_destructor(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class BatchLoader:
    """Iterable over `Batch`; see `build_loader`.

    Attributes:
        num_corrupt: unreadable images met since iteration began; unlike the sum over the batches it
            also counts those of a batch that had no readable image at all.
    """

    def __init__(self, loader: DataLoader, sampler: Any, report: Callable[[str], None]) -> None:
        self.sampler = sampler
        self.num_corrupt = 0
        self.workers: list[Any] = []  # the processes that load, once iteration has begun
        self.told = False  # whether `check_workers` has raised for one of them
        self._loader = loader
        self._report = report
        self._named: set[int] = set()

    def __len__(self) -> int:
        """Batches left, counted from the sampler's `start_batch`."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self.num_corrupt = 0
        with _awaited(interruptible=False):  # forking swallows exceptions
            with _signals_held():
                batches = iter(self._loader)
            # Not multiprocessing.active_children(), which forgets those that have died already.
            self.workers = getattr(batches, "_workers", self.workers)
            if self.workers:
                _loaders.add(self)
                _defer_deaths()
        carried = 0
        while True:
            with _awaited(interruptible=True):
                loaded = next(batches, None)
            if loaded is None:
                return
            self._note(loaded.corrupt)
            if loaded.error:
                raise UserError(loaded.error)
            if loaded.batch is None:
                carried += len(loaded.corrupt)
                continue
            batch = loaded.batch
            yield batch._replace(num_corrupt=batch.num_corrupt + carried)
            carried = 0

    def _note(self, corrupt: list[tuple[int, str, str]]) -> None:
        self.num_corrupt += len(corrupt)
        for position, name, reason in corrupt:
            if position not in self._named:
                self._named.add(position)
                self._report(f"warning: skipped the unreadable image {name}: {reason}")


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def build_loader(
    dataset: Any,
    sampler: ResumableSampler | Sequence[int],
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    pin_memory: bool = True,
    prefetch: int = 2,
    report: Callable[[str], None] = _to_stderr,
    collate: Collate = stacked,
) -> BatchLoader:
    """Load batches in the order of `sampler`.

    The global random generators of this process are left alone, whatever the number of workers.
    Workers live as long as the loader. An unreadable image in a data set that skips such images is
    reported once by name and left out, so that batch is smaller; a training batch is never empty:
    if no image of it is readable, the next readable one of the data set stands in.

    Args:
        dataset: a `SourceDataset`; with a `ResumableSampler` it is wrapped in `SeededDataset` with
            the sampler's seed, unless it is one.
        sampler: a `ResumableSampler` (training), or indices such as `exact_eval_indices(...)`.
        batch_size: images a batch; taken from a `ResumableSampler`.
        num_workers: processes that load; 0 loads in this one.
        pin_memory: page-locked batches; without a GPU it does nothing.
        prefetch: batches that each worker prepares ahead.
        report: gets one sentence for each unreadable image.
        collate: makes a batch of readable items and the number of others: `stacked` or `listed`.

    Raises:
        UserError: (while iterating) an unreadable image in a data set that does not skip them, a
            training set of which nothing can be read, or a worker that died.
    """
    training = isinstance(sampler, ResumableSampler)
    if isinstance(sampler, ResumableSampler):
        if batch_size not in (None, sampler.batch_size):
            raise UserError(
                f"The loader's batch size {batch_size} is not the sampler's {sampler.batch_size}."
            )
        batch_size = sampler.batch_size
        if not isinstance(dataset, SeededDataset):
            dataset = SeededDataset(dataset, seed=sampler.seed)
    if batch_size is None or batch_size < 1:
        raise UserError(f"The batch size must be at least 1, but it is {batch_size}.")
    if num_workers < 0:
        raise UserError(f"--num_workers must be at least 0, but it is {num_workers}.")
    # torch compares with this machine's cores, at every start and every iteration; the published
    # default of ten workers is meant for a machine with GPUs, and is what people leave it at.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    loader = DataLoader(
        _BatchReader(dataset, refill=training, collate=collate),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_pass_through,
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        persistent_workers=num_workers > 0,
        prefetch_factor=prefetch if num_workers > 0 else None,
        # Without a generator of its own, each new iterator would draw from the global one.
        generator=torch.Generator().manual_seed(0),
    )
    return BatchLoader(loader, sampler, report)
