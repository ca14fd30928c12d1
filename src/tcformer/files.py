"""Files: written so that a failure leaves the old ones, read so that a file cannot run code.

Everything the package keeps (checkpoints, weights, logs, pictures) goes through `atomic_write`. A
verb asks `check_writable` before its work; one that writes several files does so in `staging`, and
a run that writes as it goes moves an earlier one away by `set_aside`. Everything that is unpickled
goes through `safe_torch_load`. Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from tcformer.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL = "the disk is full or a limit is reached; free some space"
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class _RememberingFile(io.FileIO):
    """A raw file that remembers the first failure and swallows what is written after it.

    torch.save writes through C++, which turns a full disk into a RuntimeError of its own, and
    may then abort the process when closing its archive fails a second time. Here the archive
    always closes, and the caller still learns the true cause.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Replace the file `path` in one step by what `write` puts into the open file it is given.

    The content goes to a temporary file in the same folder, is forced to the disk, and only then
    takes the name. A reader sees the old file or the new one, never a part; when anything fails
    (or the process is interrupted) the old file is untouched and the temporary one is removed.
    A symbolic link is followed; an existing file keeps its permissions.

    Raises:
        UserError: the folder is missing, not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    mode = _mode_for(target)
    with _in_words(target), _beside(target) as (temporary, descriptor):
        _fill(descriptor, write)
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    with contextlib.suppress(OSError):
        # Some network file systems cannot sync a folder; the file itself is complete and in place.
        _sync(target.parent)


_LEFTOVER = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}(?:-([0-9a-f]{8}))?\.tmp")
_FOREIGN_SECONDS = 86400.0
"""A leftover whose lock says nothing is kept this long after its last change."""


def clear_leftovers(folder: str | os.PathLike[str], is_ours: Callable[[str], object]) -> None:
    """Delete temporary files and folders whose writer is gone and whose real name `is_ours`.

    A writer holds a lock on what it writes, which the system drops when the process ends, however
    it ends. Where there are no locks, or another machine wrote the file, its age decides.
    """
    for path in Path(folder).glob(".*.tmp"):
        match = _LEFTOVER.fullmatch(path.name)
        if not match or not is_ours(match[1]):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | _O_BINARY | _O_NONBLOCK)
            try:
                # Deleted while we hold the lock: a writer that has just begun sees it, and begins
                # anew under another name.
                locked = _lock(descriptor, shared=True)
                here = locked and match[2] in (None, _boot_mark())
                age = time.time() - os.fstat(descriptor).st_mtime
                if here or (locked is not False and age > _FOREIGN_SECONDS):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Take the lock of an open file: whether that worked; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        # NFS gives a file that is open for reading only a shared lock.
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@cache
def _boot_mark() -> str:
    """Eight digits for this machine since it was started; containers on it share them."""
    import hashlib
    import platform

    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        text = platform.node()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def check_writable(
    path: str | os.PathLike[str], *, made_from: Iterable[str | os.PathLike[str] | None] = ()
) -> Path:
    """The path, if a file can be written there: for refusing it before the work is done.

    Folders on the way may be missing. Nothing is written.

    Raises:
        UserError: it is a folder or a device, no permission, or one of the files `made_from`
            which it is to be made.
    """
    target = Path(path)
    _mode_for(Path(os.path.realpath(target)))
    read = [source for source in made_from if source and os.path.exists(source)]
    if os.path.exists(target) and any(os.path.samefile(source, target) for source in read):
        raise UserError(f"{target} would overwrite what it is made from: give another name")
    folder = target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"cannot write {target}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {target}: no permission to write in the folder {folder}")
    return target


@contextlib.contextmanager
def staging(
    folder: str | os.PathLike[str], *, last: str | None = None, stale: Iterable[str] = ()
) -> Iterator[Path]:
    """An empty folder whose files move into `folder` at the end of the block, all together.

    Whatever is raised in the block leaves `folder` as it was, and nothing else.

    Args:
        folder: where the files are to be; made if it is missing.
        last: the file that tells readers of the others (a record, a configuration). An earlier one
            is removed before the others are replaced, and the new one comes after them, so that
            nobody finds it beside files of another run.
        stale: names of files in `folder` that are removed if the block writes no new ones.

    Raises:
        UserError: the folder cannot be made, or a file cannot take its name.
    """
    target = Path(folder)
    made = [parent for parent in (target, *target.parents) if not parent.exists()]
    make_folder(target)
    clear_leftovers(target, "staging".__eq__)
    scratch = target
    try:
        with _beside(target / "staging", folder=True) as (scratch, _):
            yield scratch
            _move_all(scratch, target, last, stale)
    except BaseException as error:
        for parent in made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        if isinstance(error, UserError):  # nobody knows the scratch folder by its name
            error.args = (str(error).replace(str(scratch), str(target)),)
        raise


def _move_all(scratch: Path, folder: Path, last: str | None, stale: Iterable[str]) -> None:
    found = sorted(path for path in scratch.rglob("*") if path.is_file())
    if last is not None:
        found.sort(key=(scratch / last).__eq__)
    moves = {path: Path(os.path.realpath(folder / path.relative_to(scratch))) for path in found}
    modes = {target: _mode_for(target) for target in moves.values()}  # all, before the first
    for path, target in moves.items():
        make_folder(target.parent)
        with _in_words(target):  # a disk that is full says so now
            _sync(path)
    gone = {name for name in stale if scratch / name not in moves}
    for name in gone if last is None else {*gone, last}:
        with _in_words(folder / name):
            (folder / name).unlink(missing_ok=True)
    for path, target in moves.items():
        with _in_words(target):
            if (mode := modes[target]) is not None:
                os.chmod(path, mode)
            try:
                os.replace(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with open(path, "rb") as stream:  # the name is a link to another disk
                    atomic_write(target, partial(shutil.copyfileobj, stream))
    for parent in {target.parent for target in moves.values()}:
        with contextlib.suppress(OSError):
            _sync(parent)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Another name for a file that takes the name `path` at the end of the block.

    For what is written and then read back: an error in the block leaves the old file alone.
    """
    target = Path(os.path.realpath(path))
    _mode_for(target)
    with _in_words(target):
        os.listdir(target.parent)
    with staging(target.parent) as scratch:
        yield scratch / target.name
        if not (scratch / target.name).is_file():
            raise UserError(f"cannot write {target}: nothing was written")


def set_aside(folder: str | os.PathLike[str], names: Iterable[str]) -> Path | None:
    """Move files of these names in `folder` into a new folder earlier-1 (-2, ...) in it.

    Returns:
        The new folder; None where there are no names.

    Raises:
        UserError: the files cannot be moved.
    """
    folder, names = Path(folder), list(names)
    if not names:
        return None
    number = 1
    while os.path.lexists(aside := folder / f"earlier-{number}"):
        number += 1
    make_folder(aside)
    for name in names:
        place = aside / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder / name, place)
        except OSError as error:
            raise UserError(f"cannot move {folder / name}: {error.strerror or error}") from error
    return aside


@contextlib.contextmanager
def making_way(folder: str | os.PathLike[str], patterns: Iterable[str]) -> Iterator[Path | None]:
    """Set aside the files of `folder` that match, while the block writes others in their place.

    They are deleted when the block ends well, and come back, instead of what it has written, when
    anything is raised in it. The block gets the folder where they are meanwhile, None if there are
    none. `patterns` are those of `Path.glob`.
    """
    folder, patterns = make_folder(folder), list(patterns)

    def matching() -> list[str]:
        found = (path for pattern in patterns for path in folder.glob(pattern))
        return sorted(str(path.relative_to(folder)) for path in found if path.is_file())

    earlier = matching()
    aside = set_aside(folder, earlier)
    try:
        yield aside
    except BaseException:
        if aside is not None:
            for name in matching():
                (folder / name).unlink(missing_ok=True)
            for name in earlier:
                os.replace(aside / name, folder / name)
        raise
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _beside(target: Path, *, folder: bool = False) -> Iterator[tuple[Path, int]]:
    """A new file (or folder) in the folder of `target`, open and locked; removed at the end."""
    # Cut, because it must fit into the file system's limit of 255 bytes, too.
    stem = os.fsencode(target.name)[:100].decode(errors="ignore")
    while True:
        writer = f"{os.getpid()}-{secrets.token_hex(4)}-{_boot_mark()}"
        temporary = target.with_name(f".{stem}.{writer}.tmp")
        with _in_words(target):
            if folder:
                temporary.mkdir()
                descriptor = os.open(temporary, os.O_RDONLY)
            else:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_BINARY
                descriptor = os.open(temporary, flags, 0o666)
        if _lock(descriptor) is not False and temporary.exists():
            break
        os.close(descriptor)  # somebody took it for a leftover before it was locked
    try:
        yield temporary, descriptor
    finally:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        os.close(descriptor)  # only now: while it is open, nobody takes the file for a leftover


_O_BINARY = getattr(os, "O_BINARY", 0)  # only Windows has (and needs) it
_O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # and only Windows lacks this one


def _mode_for(target: Path) -> int | None:
    """The permissions to keep, or None for a new file; refuses what cannot be replaced."""
    with _in_words(target):
        try:
            status = os.stat(target)
        except FileNotFoundError:
            return None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file in it")
    if not stat.S_ISREG(status.st_mode):
        # os.replace would delete a device such as /dev/null and put a file in its place.
        raise UserError(f"cannot write {target}: it is not an ordinary file; give another name")
    return stat.S_IMODE(status.st_mode)


def _fill(descriptor: int, write: Callable[[BinaryIO], object]) -> None:
    """Write and force to the disk; raise the first cause of a failure."""
    # The descriptor stays ours: a TextIOWrapper, say, closes the file it was given.
    raw = _RememberingFile(descriptor, "r+b", closefd=False)
    buffer = io.BufferedRandom(raw, 1 << 20)
    try:
        write(cast(BinaryIO, buffer))
        buffer.close()
        if raw.error is None:
            os.fsync(descriptor)
    except Exception:
        # What C++ or a zip writer says after a failed write hides why it failed.
        if raw.error is None:
            raise
    finally:
        buffer.close()
    if raw.error is not None:
        raise raw.error


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_words(target: Path) -> Iterator[None]:
    """Raise what keeps the system from writing `target` as one sentence."""
    try:
        yield
    except OSError as error:
        folder = target.parent
        if is_full(error):
            cause = FULL
        elif error.errno in _FORBIDDEN:
            cause = f"no permission to write in the folder {folder}"
        elif error.errno == errno.ENOENT and not folder.exists():
            cause = f"the folder {folder} does not exist; create it first"
        elif error.errno == errno.ENOTDIR or not folder.is_dir():
            cause = f"{folder} is not a folder"
        else:
            cause = error.strerror or str(error)
        raise UserError(f"cannot write {target}: {cause}") from error


def is_full(error: BaseException) -> bool:
    """Whether writing failed because a disk is full or a quota or limit is reached."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create the folder `path` with its parents, if it is not there.

    Raises:
        UserError: a file has that name, or there is no permission or no space.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = error.strerror or str(error)
        if is_full(error):
            cause = FULL
        elif error.errno in _FORBIDDEN:
            cause = "no permission; choose another place"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            cause = "a file is in the way"
        raise UserError(f"cannot create the folder {folder}: {cause}") from error
    return folder


def cache_folder() -> Path:
    """Where downloaded weights and compiled kernels are kept.

    The environment variable TCFORMER_CACHE if it is set, else `tcformer` in XDG_CACHE_HOME, else
    `~/.cache/tcformer`. The folder need not exist.
    """
    if chosen := os.environ.get("TCFORMER_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "tcformer"
    try:
        return Path.home() / ".cache" / "tcformer"
    except RuntimeError as error:
        raise UserError("this user has no home folder; set TCFORMER_CACHE to a folder") from error


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path if it is an ordinary file that can be opened.

    Raises:
        UserError: it is missing, a folder, not readable, or empty.
    """
    file = Path(path)
    try:
        status = file.stat()
        cause = _unlike_a_file(status)
        if not cause:
            cause = "" if status.st_size else "the file is empty"
            file.open("rb").close()
    except FileNotFoundError:
        cause = "there is no such file"
    except PermissionError:
        cause = "no permission"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        cause = getattr(error, "strerror", None) or str(error)
    if cause:
        raise UserError(f"cannot read {file}: {cause}")
    return file


def _unlike_a_file(status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder; give the name of a file in it"
    return "" if stat.S_ISREG(status.st_mode) else "it is not an ordinary file"


MOST_BYTES = 1 << 30
"""A file that is read as one piece (an image, a list) is at most so long: a gibibyte."""


def read_whole(path: str | os.PathLike[str], *, most: int = MOST_BYTES) -> bytes:
    """The content of an ordinary file of at most `most` bytes.

    A pipe or device of that name is refused at once; to open one could wait for ever.

    Raises:
        OSError: it cannot be read, is no ordinary file, or is too long; `strerror` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _O_BINARY | _O_NONBLOCK)
    except ValueError as error:  # a zero byte, or a character that no file name can have
        raise OSError(errno.EINVAL, f"no file can have this name ({error})") from None
    try:
        status = os.fstat(descriptor)
        if cause := _unlike_a_file(status):
            raise OSError(errno.EINVAL, cause)
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, more than {most:,}")
        with open(descriptor, "rb", closefd=False) as stream:
            # Never more than was looked at, even of a file that grows.
            return stream.read(status.st_size)
    finally:
        os.close(descriptor)


def read_text(path: str | os.PathLike[str], *, most: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file, without the byte order mark that editors on Windows begin with.

    Raises:
        OSError: as `read_whole`.
        UnicodeDecodeError: it is another encoding.
    """
    return read_whole(path, most=most).decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """What JSON says, a byte order mark left out.

    Raises:
        ValueError: it is no JSON, or so deeply nested that Python cannot read it.
    """
    try:
        return json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_web_page(data: bytes) -> bool:
    """Whether a file that begins with `data` is HTML."""
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<!doctype html", b"<html", b"<head"))
