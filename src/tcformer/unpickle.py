"""Files of torch.save, read without running anything that stands in them, and only if whole.

torch's own weights-only reader decides what may be built from a file. What it leaves out is done
before: the checksums of the archive, which torch writes and never looks at; archives that unpack to
more than they are; and keys that would take for ever to hash. `tcformer.files.safe_torch_load` is
the function to call.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import pickletools
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tcformer.errors import UserError, shown

_CHUNK = 1 << 20
_MOST_PARTS = 1_000_000  # of one key, counting what is in it as often as it is
_DEEPEST = 500  # tuples in tuples; hashing takes one frame of the C stack for each


class _DamagedError(Exception):
    """The file is not what was written."""


class _ForeignError(Exception):
    """The file is something else."""


def load(file: Path, map_location: Any) -> Any:
    """What `tcformer.files.safe_torch_load` says, for a file that can be opened."""
    import torch

    try:
        # The open file, not its name: by its name torch would read a .safetensors by itself.
        with open(file, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on odd pickles; we say it better
            _check(stream)
            stream.seek(0)
            with _only_plain_allowed():
                content = torch.load(stream, map_location=map_location, weights_only=True)
        _check_tensors(content)
        return content
    except _DamagedError as error:
        raise UserError(f"cannot read {file}: {error}; get a fresh copy") from None
    except _ForeignError as error:
        raise UserError(f"cannot read {file}: {error}") from None
    except MemoryError as error:
        raise UserError(
            f"cannot read {file}: it does not fit into memory, or is damaged"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything, from IndexError to EOFError
        raise UserError(f"cannot read {file}: {_why_not_loaded(file, error)}") from error


def _check(stream: BinaryIO) -> None:
    """Look at a file before torch does; what this cannot read is left for torch to refuse."""
    start = stream.read(4)
    stream.seek(0)
    if start == b"PK\x03\x04":
        _check_archive(stream)
    elif start.startswith(b"\x80"):
        # The older format: four pickles (magic number, version, system, content), then numbers.
        for _ in range(4):
            if not _check_pickle(stream):
                return


def _check_archive(stream: BinaryIO) -> None:
    try:
        archive = zipfile.ZipFile(stream)
    except Exception:  # torch reads some archives that Python cannot; these are damaged, too
        raise _DamagedError("the file is damaged or incomplete") from None
    with archive:
        records = archive.infolist()
        names = [record.filename.rpartition("/")[2] for record in records]
        if "constants.pkl" in names:
            raise _ForeignError(
                "it is a TorchScript program, not a checkpoint; save its state_dict instead"
            )
        if "data.pkl" not in names:
            raise _ForeignError("it is a zip archive, but none that torch.save wrote")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise _DamagedError("its records are compressed, which torch.save never does")
        size = stream.seek(0, 2)
        if sum(record.file_size for record in records) > size:
            raise _DamagedError("its records are larger than the file, so it is damaged")
        if len({record.filename for record in records}) < len(records):
            raise _DamagedError("it holds two records of one name, so it is damaged")
        # torch can be told to leave the sums out; then all of them are zero.
        summed = any(record.CRC for record in records)
        for record in records:
            if not summed:
                record.CRC = None  # type: ignore[assignment]  # zipfile then compares nothing
            _read_record(archive, record)


def _read_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Read to the end, where zipfile compares the sums; look into the pickle on the way."""
    try:
        with archive.open(record) as content:
            if record.filename.endswith("data.pkl"):
                _check_pickle(io.BytesIO(content.read()))
            while content.read(_CHUNK):
                pass
    except _DamagedError:
        raise
    except Exception as error:  # zipfile raises five kinds on damaged headers
        what = "the file is damaged or incomplete"
        if "CRC" in str(error):
            what = f"its record {shown(record.filename)} is damaged, the checksum differs"
        raise _DamagedError(what) from None


def _check_pickle(stream: Any) -> bool:
    """Refuse keys that take for ever to hash: tuples of the same tuples of the same tuples.

    A model of the stack machine that knows of each value only how large and deep it is as a key.
    Returns whether the pickle was followed to its end; torch refuses those that were not.
    """
    stack: list[tuple[int, int]] = []
    marks: list[int] = []
    memo: dict[int, tuple[int, int]] = {}
    flat = (1, 0)

    def tuple_of(items: list[tuple[int, int]]) -> tuple[int, int]:
        parts = 1 + sum(size for size, _ in items)
        depth = 1 + max((below for _, below in items), default=0)
        if parts > _MOST_PARTS or depth > _DEEPEST:
            raise _DamagedError("it holds tuples nested without end")
        return parts, depth

    try:
        for code, argument, _ in pickletools.genops(stream):
            name, number = code.name, argument if isinstance(argument, int) else -1
            if name == "MARK":
                marks.append(len(stack))
            elif name == "TUPLE":
                mark = marks.pop()
                stack[mark:] = [tuple_of(stack[mark:])]
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                stack[-count:] = [tuple_of(stack[-count:])]
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[number] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo.get(number, flat))
            elif name in ("APPENDS", "SETITEMS"):
                del stack[marks.pop() :]
            elif name in ("APPEND", "BUILD"):
                stack.pop()
            elif name == "SETITEM":
                del stack[-2:]
            elif name in ("REDUCE", "NEWOBJ"):
                # What is built from a tuple may be a tuple: torch.Size, for one.
                stack[-2:] = [stack[-1]]
            elif name == "BINPERSID":
                stack[-1] = flat
            elif name == "POP":
                stack.pop()
            elif name not in ("PROTO", "STOP"):
                if code.stack_before:
                    return False  # none that torch would follow
                stack.append(flat)
        return True
    except (ValueError, IndexError, TypeError, OSError, zipfile.BadZipFile, UnicodeError):
        return False


def _check_tensors(content: Any) -> None:
    """Refuse views that claim more than their storage holds: copying one would fill the memory."""
    from torch import Tensor

    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif isinstance(value, argparse.Namespace):
            waiting += vars(value).values()
        elif isinstance(value, Tensor) and _claims_too_much(value):
            raise _DamagedError("a tensor in it claims more numbers than it holds")


def _claims_too_much(tensor: Any) -> bool:
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        return False
    return bool(tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes())


class _NumpyType:
    """Stands for `numpy.dtype` while a file is read, so that no file can build a real one.

    A real one can be told that bytes of the file are addresses of Python objects.
    """

    def __init__(self, kind: Any = "", *_: Any) -> None:
        self.kind, self.order = kind, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    @property
    def number(self) -> np.dtype[Any] | None:
        """The type of numbers (or of texts) that is meant; None for any other."""
        if not isinstance(self.kind, str) or not re.fullmatch(r"[biufcUS]\d{1,4}", self.kind):
            return None
        return np.dtype(
            ("" if self.order == "|" else ">" if self.order == ">" else "<") + self.kind
        )


class _NumpyArray:
    """Stands for a NumPy array beside the weights, such as a random state: it is not needed."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _numpy_scalar(kind: Any, data: Any = b"") -> Any:
    """A NumPy scalar as Python's own number or text."""
    number = kind.number if isinstance(kind, _NumpyType) else None
    if number is None or not isinstance(data, bytes) or len(data) != number.itemsize:
        raise _ForeignError("it holds a NumPy scalar that is no plain number")
    return np.frombuffer(data, number)[0].item()


def _numpy_array(*_: Any) -> _NumpyArray:
    return _NumpyArray()


# NumPy 2 renamed its module; files name whichever wrote them.
_STAND_INS: list[Any] = [(_NumpyType, "numpy.dtype"), (_NumpyArray, "numpy.ndarray")]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _STAND_INS += [(_numpy_scalar, f"{_module}.scalar"), (_numpy_array, f"{_module}._reconstruct")]

_allowing = threading.Lock()


@contextlib.contextmanager
def _only_plain_allowed() -> Iterator[None]:
    from torch import serialization

    # torch keeps one list for the process; the lock keeps two readers from restoring each
    # other's state.
    with _allowing:
        before = serialization.get_safe_globals()
        serialization.clear_safe_globals()
        serialization.add_safe_globals([argparse.Namespace, *_STAND_INS])
        try:
            yield
        finally:
            serialization.clear_safe_globals()
            serialization.add_safe_globals(before)


def _why_not_loaded(file: Path, error: Exception) -> str:
    text = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)|<(?:class|function) '?([\w.]+)", text)
    if wanted and ("nsupported" in text or "an only" in text or "llowlist" in text):
        return (
            f"it holds more than weights (a Python object '{wanted[1] or wanted[2]}'), "
            "and loading it could run code; ask for a file with plain tensors"
        )
    # EINVAL: torch looked for the end of an archive before the beginning of a file cut short.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return error.strerror or text
    if "Unsupported operand" in text:
        return (
            "it is damaged, or pickled by another protocol than torch's own (2), the only one "
            "that is read without running code; save it again with torch.save's default"
        )
    if "Attempting to deserialize" in text:
        return "its tensors belong on a device that this machine lacks; use map_location='cpu'"
    with open(file, "rb") as stream:
        start = stream.read(4)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "the file is damaged or incomplete (or no file of torch); get a fresh copy"
    return "it is not a file that torch.save wrote"
