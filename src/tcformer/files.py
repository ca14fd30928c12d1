"""Files: written so that a crash leaves the old one, read so that a file cannot run code.

Everything the package keeps (checkpoints, weights, logs, pictures) goes through `atomic_write`;
everything it unpickles goes through `safe_torch_load`. Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from tcformer.errors import UserError

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
    temporary = _beside(target)
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_BINARY, 0o666)
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
    _sync_folder(target.parent)


_LEFTOVER = re.compile(r"\.(.+)\.(\d+)-[0-9a-f]{8}\.tmp")


def leftovers(folder: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """Temporary files of `atomic_write` whose process is gone, each with the name it was meant for.

    A process that still runs on this machine (or another one that got its number) keeps its file.
    """
    found = []
    for path in Path(folder).glob(".*.tmp"):
        match = _LEFTOVER.fullmatch(path.name)
        if match and not _is_running(int(match[2])):
            found.append((path, match[1]))
    return found


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name in the folder of `path`, for a file that is to take its name at the end of the block.

    For what is written and then looked at again: whatever is raised in the block leaves the old
    file and nothing else.

    Raises:
        UserError: the file cannot take the name.
    """
    target = Path(os.path.realpath(path))
    mode = _mode_for(target)
    copy = _beside(target)
    try:
        yield copy
        try:
            if mode is not None:
                os.chmod(copy, mode)
            os.replace(copy, target)
        except OSError as error:
            raise UserError(_why_not_written(target, error)) from error
    except UserError as error:  # nobody knows the copy by its name
        raise UserError(str(error).replace(str(copy), str(target))) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(copy)
    _sync_folder(target.parent)


def _beside(target: Path) -> Path:
    """A name that nobody else has, in the same folder."""
    # Cut, because it must fit into the file system's limit of 255 bytes, too.
    stem = os.fsencode(target.name)[:100].decode(errors="ignore")
    return target.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


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
    """Write, force to the disk, and close `descriptor`; raise the first cause of a failure."""
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
        os.close(descriptor)
    if raw.error is not None:
        raise raw.error


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the file system can do that."""
    if os.name != "posix":
        return
    # Some network file systems cannot sync a folder; the file itself is complete and in place.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
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


def parse_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is no JSON, or so deeply nested that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def safe_torch_load(path: str | os.PathLike[str], map_location: Any = "cpu") -> Any:
    """Read a file that torch.save wrote, without ever running code from it.

    Every record's checksum is verified first, which torch itself leaves out: a flipped byte is a
    refusal, not another number. (The older of torch's two formats has no checksums.) Allowed are
    what torch's own weights-only reader allows (tensors, numbers, strings, plain containers) and
    `argparse.Namespace`, which the authors' training checkpoints hold; nothing else, not even what
    other libraries have registered with torch as safe. The zip format and the older one are read.

    Args:
        path: the file.
        map_location: as in torch.load; where tensors go.

    Returns:
        What was saved, usually a dict.

    Raises:
        UserError: missing, truncated, not a file of torch, or it wants Python code to run.
    """
    from tcformer.unpickle import load

    return load(check_readable(path), map_location)
