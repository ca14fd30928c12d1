"""Downloads: whole or not at all, with the cause of a failure in words. No torch needed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tcformer.errors import UserError
from tcformer.files import atomic_write, cache_folder, make_folder

_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 20


class FetchError(UserError):
    """A download failed. `cause` is the reason without the address."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


def fetch(url: str, target: Path, *, progress: bool = False) -> None:
    """Download `url` into the file `target`, atomically.

    Args:
        url: an http or https address. Proxies are taken from the environment.
        target: the file to write; its folder exists.
        progress: show a bar on stderr, when that is a terminal.

    Raises:
        FetchError: no connection, an error status, a broken connection, or a web page instead.
        UserError: the address is of another kind, or the file cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"cannot download {url}: the address must begin with http:// or https://")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "tcformer"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            total = _announced(response)
            with progress_bar(target.name, total, shown=progress) as advance:
                atomic_write(target, lambda stream: _copy(response, stream, total, advance))
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, UserError) and not isinstance(error, FetchError):
            raise
        cause = error.cause if isinstance(error, FetchError) else _cause(url, error)
        raise FetchError(f"cannot download {url}: {cause}", cause) from error


def fetch_cached(url: str) -> Path:
    """Return the downloaded file of `url`, fetching it the first time only.

    As with torch.hub, the copy is used from then on; delete it from the cache to fetch anew.

    Raises:
        UserError: the download fails.
    """
    address = urllib.parse.urlsplit(url)
    name = os.path.basename(urllib.parse.unquote(address.path)) or "weights"
    # Two servers may both call their file checkpoint.pth.
    mark = hashlib.sha256(url.encode()).hexdigest()[:12]
    target = cache_folder() / "urls" / mark / name[-100:]
    if not target.is_file():
        make_folder(target.parent)
        fetch(url, target, progress=True)
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in lower-case hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def progress_bar(name: str, total: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar for a download of `total` bytes on stderr; yields what advances it."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)


def _announced(response: Any) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length and length.isdecimal() else None


def _copy(
    response: Any, stream: BinaryIO, total: int | None, advance: Callable[[int], None]
) -> None:
    received = 0
    while True:
        try:
            data = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            # Named here: inside atomic_write an OSError would be taken for one of the disk's.
            raise _broken(received, total) from error
        if not data:
            break
        if received == 0 and is_web_page(data):
            cause = "the server sent a web page instead of the file"
            raise FetchError(cause, cause)
        received += len(data)
        stream.write(data)
        advance(len(data))
    if total is not None and received != total:
        raise _broken(received, total)
    if received == 0:
        raise FetchError("nothing came", "the server sent an empty file")


def is_web_page(data: bytes) -> bool:
    """Whether a file that begins with `data` is HTML."""
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<!doctype html", b"<html", b"<head"))


def _broken(received: int, total: int | None) -> FetchError:
    cause = f"the connection broke off after {received} of {total or 'an unknown number of'} bytes"
    return FetchError(cause, cause)


def _cause(url: str, error: Exception) -> str:
    host = url.split("/")[2]
    reason = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        said = " ".join(f"{error.reason}".split())  # urllib's own remarks have several lines
        return f"{host} answered {error.code} {said}".rstrip()
    if isinstance(reason, socket.gaierror):
        return f"{host} cannot be found (is this machine offline?)"
    if isinstance(reason, TimeoutError):
        return f"{host} did not answer within {_TIMEOUT_SECONDS} seconds"
    if isinstance(reason, OSError):
        return f"no connection to {host} ({reason.strerror or reason})"
    return " ".join(f"{reason}".split()) or type(error).__name__
