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
from functools import cache
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

    Args:
        path: the file to write.
        write: called once with a seekable binary file.

    Raises:
        UserError: the folder is missing, not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    mode = _mode_for(target)
    try:
        temporary, descriptor = _create_beside(target)
    except OSError as error:
        raise UserError(_why_not_written(target, error)) from error
    try:
        _fill(descriptor, write)
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not isinstance(error, UserError):
            raise UserError(_why_not_written(target, error)) from error
        raise
    finally:
        os.close(descriptor)  # only now: while it is open, nobody takes the file for a leftover
    with contextlib.suppress(OSError):
        # Some network file systems cannot sync a folder; the file itself is complete and in place.
        _sync(target.parent)


_LEFTOVER = re.compile(r"\.(.+)\.(\d+)-[0-9a-f]{8}(?:-([0-9a-f]{8}))?\.tmp")
_FOREIGN_SECONDS = 86400.0
"""A leftover that another machine may still be writing is kept this long after its last change."""


def leftovers(folder: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """Temporary files and folders whose writer is gone, each with the name it was meant for.

    A writer holds a lock on what it writes, which the system drops when the process ends, however
    it ends. Where the file system has no locks, or another machine (or this one before it was
    started anew) wrote the file, the process number and the age of the file decide.
    """
    found = []
    for path in Path(folder).glob(".*.tmp"):
        match = _LEFTOVER.fullmatch(path.name)
        if match and not _in_use(path, int(match[2]), match[3]):
            found.append((path, match[1]))
    return found


def _in_use(path: Path, pid: int, machine: str | None) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | _O_BINARY | _O_NONBLOCK)
    except OSError:
        return True
    try:
        if _lock(descriptor, shared=True) is False:
            return True
        age = max(0.0, time.time() - os.fstat(descriptor).st_mtime)
    finally:
        os.close(descriptor)
    if machine not in (None, _boot_mark()):
        return age < _FOREIGN_SECONDS  # its locks may not be visible from here
    return _is_running(pid, age)


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


def _is_running(pid: int, age: float) -> bool:
    """Whether process `pid` can be the writer of a file that was last changed `age` seconds ago.

    A zombie writes nothing, and a process that began after the change has only got its number.
    """
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    try:
        # Behind the name, which may hold anything, in brackets: the state, and, as the 20th, when
        # the process began, in ticks since the machine did.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        running = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, IndexError, AttributeError):
        return True  # no Linux: there is a process of that number, and no more is known
    return fields[0] not in "ZX" and running + 0.1 > age


def check_writable(
    path: str | os.PathLike[str], *, made_from: Iterable[str | os.PathLike[str] | None] = ()
) -> Path:
    """The path, if a file can be written there: for refusing it before the work is done.

    Folders on the way may be missing. Nothing is written.

    Args:
        path: name of the file to be.
        made_from: files that are read for it, which it must not replace.

    Raises:
        UserError: it is a folder or a device, no permission, or one of `made_from`.
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
    scratch = _beside(target / "staging")
    try:
        with _clean_staging(target, scratch):
            yield scratch
            _move_all(scratch, target, last, stale)
    except BaseException as error:
        for parent in made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        if isinstance(error, UserError):  # nobody knows the scratch folder by its name
            told = str(error).replace(str(scratch), str(target))
            if told != str(error):
                raise UserError(told) from error
        raise


@contextlib.contextmanager
def _clean_staging(target: Path, scratch: Path) -> Iterator[None]:
    for path, name in leftovers(target):  # of processes that were killed
        if name == "staging":
            shutil.rmtree(path, ignore_errors=True)
    try:
        scratch.mkdir()
        descriptor = os.open(scratch, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise UserError(_why_not_written(target / "staging", error)) from error
    if descriptor is not None:
        _lock(descriptor)
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _move_all(scratch: Path, folder: Path, last: str | None, stale: Iterable[str]) -> None:
    found = sorted(path for path in scratch.rglob("*") if path.is_file())
    if last is not None:
        found.sort(key=(scratch / last).__eq__)
    moves = {path: Path(os.path.realpath(folder / path.relative_to(scratch))) for path in found}
    modes = {target: _mode_for(target) for target in moves.values()}  # all, before the first
    for target in moves.values():
        make_folder(target.parent)
    for path, target in moves.items():  # a disk that is full says so now
        try:
            _sync(path)
        except OSError as error:
            raise UserError(_why_not_written(target, error)) from error
    gone = {name for name in stale if scratch / name not in moves}
    for name in gone if last is None else {*gone, last}:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(_why_not_written(folder / name, error)) from error
    for path, target in moves.items():
        try:
            if (mode := modes[target]) is not None:
                os.chmod(path, mode)
            os.replace(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise UserError(_why_not_written(target, error)) from error
            _copy(path, target)  # the name is a link to another disk
    for parent in {target.parent for target in moves.values()}:
        with contextlib.suppress(OSError):
            _sync(parent)


def _copy(path: Path, target: Path) -> None:
    with open(path, "rb") as stream:
        atomic_write(target, lambda copy: shutil.copyfileobj(stream, copy))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name for a file that is to take the name `path` at the end of the block.

    For what is written and then looked at again: whatever is raised in the block leaves the old
    file and nothing else.

    Raises:
        UserError: the file cannot take the name.
    """
    target = Path(os.path.realpath(path))
    _mode_for(target)
    if not target.parent.is_dir():
        raise UserError(_why_not_written(target, FileNotFoundError(errno.ENOENT, "")))
    with staging(target.parent) as scratch:
        yield scratch / target.name
        if not (scratch / target.name).is_file():
            raise UserError(f"cannot write {target}: nothing was written")


def set_aside(folder: str | os.PathLike[str], names: Iterable[str]) -> Path | None:
    """Move files of `folder` into a new folder earlier-1 (or -2, ...) in it, and return that.

    Args:
        folder: the folder of an earlier run.
        names: of files in it; others stay where they are. None of them: nothing happens.

    Raises:
        UserError: they cannot be moved.
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
    anything is raised in it. Yields where they are meanwhile, or None if there were none.

    Args:
        folder: the folder; made if it is missing.
        patterns: as `Path.glob` takes them.

    Raises:
        UserError: the files cannot be moved.
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
            shutil.rmtree(aside, ignore_errors=True)
        raise
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _create_beside(target: Path) -> tuple[Path, int]:
    """A new file of a name that nobody else has, open for its writer, which holds its lock."""
    while True:
        temporary = _beside(target)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_BINARY
        descriptor = os.open(temporary, flags, 0o666)
        if _lock(descriptor) is not False and (not fcntl or os.fstat(descriptor).st_nlink):
            return temporary, descriptor
        os.close(descriptor)  # somebody took it for a leftover before it was locked


def _beside(target: Path) -> Path:
    """A name that nobody else has, in the same folder."""
    # Cut, because it must fit into the file system's limit of 255 bytes, too.
    stem = os.fsencode(target.name)[:100].decode(errors="ignore")
    writer = f"{os.getpid()}-{secrets.token_hex(4)}-{_boot_mark()}"
    return target.with_name(f".{stem}.{writer}.tmp")


_O_BINARY = getattr(os, "O_BINARY", 0)  # only Windows has (and needs) it
_O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # and only Windows lacks this one


def _mode_for(target: Path) -> int | None:
    """The permissions to keep, or None for a new file; refuses what cannot be replaced."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(_why_not_written(target, error)) from error
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
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why_not_written(target: Path, error: OSError) -> str:
    folder = target.parent
    if error.errno in _DISK_FULL:
        return f"cannot write {target}: {FULL}"
    if error.errno in _FORBIDDEN:
        return f"cannot write {target}: no permission to write in the folder {folder}"
    if error.errno == errno.ENOENT and not folder.exists():
        return f"cannot write {target}: the folder {folder} does not exist; create it first"
    if error.errno == errno.ENOTDIR or not folder.is_dir():
        return f"cannot write {target}: {folder} is not a folder"
    return f"cannot write {target}: {error.strerror or error}"


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
        if error.errno in _DISK_FULL:
            cause = "the disk is full; free some space"
        elif error.errno in _FORBIDDEN:
            cause = "no permission; choose another place"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            cause = "a file is in the way"
        else:
            cause = error.strerror or str(error)
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
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"cannot read {file}: it is a folder; give the name of a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"cannot read {file}: it is not an ordinary file")
        with open(file, "rb"):
            pass
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"cannot read {file}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        cause = getattr(error, "strerror", None) or str(error)
        if isinstance(error, PermissionError):
            cause = "no permission"
        raise UserError(f"cannot read {file}: {cause}") from error
    if status.st_size == 0:
        raise UserError(f"cannot read {file}: the file is empty")
    return file


MOST_BYTES = 1 << 30
"""A file that is read as one piece (an image, a list) is at most so long: a gibibyte."""


def read_whole(path: str | os.PathLike[str], *, most: int = MOST_BYTES) -> bytes:
    """The content of an ordinary file.

    A pipe or device of that name is refused at once; to open one could wait for ever.

    Args:
        path: the file; links are followed.
        most: the number of bytes above which it is refused.

    Raises:
        OSError: it cannot be read, is no ordinary file, or is too long; `strerror` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _O_BINARY | _O_NONBLOCK)
    except ValueError as error:  # a zero byte, or a character that no file name can have
        raise OSError(errno.EINVAL, f"no file can have this name ({error})") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not an ordinary file")
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
