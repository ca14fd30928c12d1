"""The authors' released weights: where they are, how they are fetched, checked and kept.

Downloads are whole or not at all, with the cause of a failure in words. Importing this module does
not import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tcformer.errors import UserError
from tcformer.files import atomic_write, cache_folder, is_web_page, make_folder, staging
from tcformer.progress import progress_bar

_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Download:
    """One place that has the file.

    Attributes:
        file_name: what the file is called there and in the cache.
        address: an https address, or the page of Google Drive.
        drive_id: Google Drive's id, empty for other hosts.
        sha256: the known first digits of the file's SHA-256; empty when nobody told them.
    """

    file_name: str
    address: str
    drive_id: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Release:
    """One set of released weights.

    Attributes:
        name: what `tcformer download` and `pretrained_path` call it.
        architecture: the variant whose backbone it fits.
        task: what it was trained for.
        paper: the figure its authors report. It is not measured by this project.
        sources: where to get it, the best first.
    """

    name: str
    architecture: str
    task: str
    paper: str
    sources: tuple[Download, ...]


_BASE = "tcformer-4e1adbf1_20220421.pth"
_LARGE = "tcformer_large-a47cc309_20220606.pth"
_POSE = "tcformer_coco-wholebody_256x192-a0720efa_20220627.pth"
_POSE_ON_DRIVE = "tcformer_mta_256x192-68d5f8aa_20220606.pth"
_LARGE_POSE = "tcformer_large_wholebody_384x288"
_CLASSES = "ImageNet-1k classification"
_WHOLE_BODY = "COCO-WholeBody pose (backbone, neck and head)"


def _drive(file_name: str, drive_id: str, sha256: str = "") -> Download:
    address = f"https://drive.google.com/file/d/{drive_id}/view"
    return Download(file_name, address, drive_id, sha256)


def _mmpose(folder: str, file_name: str, sha256: str) -> Download:
    address = f"https://download.openmmlab.com/mmpose/{folder}/{file_name}"
    return Download(file_name, address, sha256=sha256)


def _release(name: str, task: str, paper: str, *sources: Download) -> tuple[str, Release]:
    return name, Release(name, name.partition("_wholebody")[0], task, paper, sources)


RELEASED = dict(
    (
        _release(
            "tcformer_light", _CLASSES, "79.4 % top-1",
            _drive("tcformer_light.pth", "1TvcJCQhHaxXJhGo13i6b5PWErhzIivuD"),
        ),
        _release(
            "tcformer", _CLASSES, "82.3 % top-1",
            _mmpose("pretrain_models", _BASE, "4e1adbf1"),
            _drive(_BASE, "1sIrTzIKFfW5Io2MybIWJoS0sv72Wd-av", "4e1adbf1"),
        ),
        _release(
            "tcformer_large", _CLASSES, "83.6 % top-1",
            _drive(_LARGE, "1wu9joQJU807IGW51mIlhK4dNnMze8E1K", "a47cc309"),
        ),
        _release(
            "tcformer_wholebody_256x192", _WHOLE_BODY, "",
            _mmpose("top_down/tcformer", _POSE, "a0720efa"),
            _drive(_POSE_ON_DRIVE, "1tRMhOxiab8BcuImi7B64BRgXPZ2A3BAx", "68d5f8aa"),
        ),
        _release(
            _LARGE_POSE, _WHOLE_BODY, "",
            _drive(f"{_LARGE_POSE}.pth", "1aUIj_-U1EfklVGzELUrierwFNoUp-zrH"),
        ),
    )
)  # fmt: skip
"""Every set of weights by name. Ids, addresses and digits of hashes are those the authors and
MMPose published; a hash that is not in a published file name is not known."""


def pretrained_path(
    name: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    progress: bool = True,
    force: bool = False,
) -> Path:
    """Return the released weights `name` as a safetensors file, fetching them if need be.

    The order is: what an earlier call kept; a published file that somebody put into the cache
    by hand; a download. What comes new is checked against the known digits of its hash, read
    without running code, checked to be the right architecture, and kept as safetensors.
    Processes that ask at the same time wait for the first.

    Args:
        name: a key of `RELEASED`.
        cache_dir: where files are kept; default `cache_folder()` (TCFORMER_CACHE changes it).
        base_url: fetch `base_url/FILE_NAME` instead of the published addresses; default the
            environment variable TCFORMER_ZOO_URL. For mirrors and tests.
        progress: show a bar when stderr is a terminal.
        force: fetch (or take the file put there by hand) although there is a kept one.

    Raises:
        UserError: the name is unknown, or the file cannot be had; the sentence says where to
            put it by hand.
    """
    entry = find_release(name)
    folder = make_folder(cache_folder() if cache_dir is None else Path(cache_dir).expanduser())
    kept = folder / f"{entry.name}.safetensors"
    if not force and is_kept(entry, kept):
        return kept
    with _one_at_a_time(folder / f".{entry.name}.lock"):
        if not force and is_kept(entry, kept):
            return kept  # another process was faster
        for source in entry.sources:
            by_hand = folder / source.file_name
            if by_hand.is_file():
                _verify(by_hand, source)
                _keep(entry, source, by_hand, kept)
                return kept
        base_url = os.environ.get("TCFORMER_ZOO_URL") if base_url is None else base_url
        _download(entry, folder, kept, base_url, progress)
    return kept


def find_release(name: str) -> Release:
    """Look `name` up in the zoo; UserError if there is no such entry."""
    if name in RELEASED:
        return RELEASED[name]
    raise UserError(
        f"there are no released weights called '{name}'; there are {', '.join(RELEASED)}"
    )


def is_kept(entry: Release, kept: Path) -> bool:
    """Whether `kept` is a whole safetensors file for this entry."""
    return (kept_metadata(kept) or {}).get("zoo") == entry.name


def kept_metadata(kept: Path) -> dict[str, str] | None:
    """The header entries of a kept file, such as `sha256`; None if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        # Opening checks that the header is sound and the file has the length it promises.
        with safe_open(kept, framework="pt") as reader:
            return dict(reader.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return None


def by_hand_hint(entry: Release, folder: Path) -> str:
    """Say, as the second half of a sentence, how to get the file without this program."""
    source = entry.sources[0]
    return (
        f"get it from {source.address} by other means, put it at {folder / source.file_name} "
        "and run this again"
    )


def _download(
    entry: Release, folder: Path, kept: Path, base_url: str | None, progress: bool
) -> None:
    sources = entry.sources
    if base_url:
        first = sources[0]
        address = f"{base_url.rstrip('/')}/{first.file_name}"
        sources = (Download(first.file_name, address, sha256=first.sha256),)
    causes = []
    for source in sources:
        try:
            with staging(folder) as temporary:
                file = temporary / source.file_name
                if source.drive_id:
                    _fetch_from_drive(source, file, progress)
                else:
                    fetch(source.address, file, progress=progress)
                _verify(file, source)
                _keep(entry, source, file, temporary / kept.name)
                file.unlink()
            return
        except FetchError as error:
            causes.append(error.cause)
    where = f" from {sources[0].address}" if base_url else ""
    raise UserError(
        f"cannot download {entry.name}{where}: {' and '.join(dict.fromkeys(causes))}; "
        f"{by_hand_hint(entry, folder)}"
    )


def _fetch_from_drive(source: Download, file: Path, progress: bool) -> None:
    try:
        import gdown
    except ImportError as error:
        raise FetchError(
            "Google Drive needs the package gdown (pip install 'tcformer[weights]')"
        ) from error
    said = ""
    try:
        gdown.download(id=source.drive_id, output=str(file), quiet=not progress)
    except Exception as error:  # gdown passes on whatever its HTTP library raises
        said = f" ({' '.join(str(error).split())[:160] or type(error).__name__})"
    if said or not file.is_file():
        raise FetchError(f"Google Drive did not give the file{said}")


def _verify(file: Path, source: Download) -> None:
    with open(file, "rb") as stream:
        if is_web_page(stream.read(512)):
            cause = "a web page came instead of the file"
            if source.drive_id:
                cause += " (Google Drive sends one when a file's daily quota is used up)"
            raise FetchError(cause, f"{file} is a web page, not weights; replace or remove it")
    digits = file_sha256(file)
    if not digits.startswith(source.sha256):
        found = digits[: len(source.sha256)]
        cause = f"the file is not the published one (SHA-256 {found}..., not {source.sha256}...)"
        raise FetchError(cause, f"cannot use {file}: {cause}; replace or remove it")


def _keep(entry: Release, source: Download, file: Path, kept: Path) -> None:
    """Convert the published `file` to safetensors."""
    from tcformer.weights.metadata import save_weights
    from tcformer.weights.remap import identify, translate
    from tcformer.weights.safe_torch import read_checkpoint

    try:
        translated = translate(read_checkpoint(file).state_dict)
    except UserError as error:
        raise FetchError("what came is no checkpoint", f"{error}; replace or remove it") from error
    architecture = identify(translated.backbone)
    if architecture is None or architecture.name != entry.architecture:
        found = architecture or "another kind of network"
        cause = f"the file holds the weights of {found}, not of {entry.architecture}"
        raise FetchError(cause, f"cannot use {file}: {cause}; replace or remove it")
    metadata = {
        "zoo": entry.name,
        "model": entry.architecture,
        "source": source.address,
        "sha256": file_sha256(file),
        "verified": source.sha256 or "no",
    }
    save_weights(translated.whole, kept, metadata)


@contextlib.contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a lock that other processes on this machine wait for, where the system has such."""
    with contextlib.ExitStack() as stack:
        # Elsewhere several may download the same file, each whole.
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            stream = stack.enter_context(open(lock, "a"))
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class FetchError(UserError):
    """A download failed. `cause` is the reason without the address."""

    def __init__(self, cause: str, message: str = "") -> None:
        super().__init__(message or cause)
        self.cause = cause


def fetch(url: str, target: Path, *, progress: bool = False) -> None:
    """Download `url` into the file `target`, atomically; its folder exists.

    Proxies are taken from the environment. `progress` shows a bar where stderr is a terminal.

    Raises:
        FetchError: no connection, an error status, a broken connection, or a web page instead.
        UserError: the address is of another kind, or the file cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"cannot download {url}: the address must begin with http:// or https://")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "tcformer"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdecimal() else None
            wanted = None if progress else False
            with progress_bar(total, label=target.name, wanted=wanted, in_bytes=True) as advance:
                atomic_write(target, lambda stream: _copy(response, stream, total, advance))
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, UserError) and not isinstance(error, FetchError):
            raise
        cause = error.cause if isinstance(error, FetchError) else _cause(url, error)
        raise FetchError(cause, f"cannot download {url}: {cause}") from error


def fetch_cached(url: str) -> Path:
    """Return the downloaded file of `url`, fetching it the first time only.

    As with torch.hub, the copy is used from then on; delete it from the cache to fetch anew.
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


def _copy(response: Any, stream: BinaryIO, total: int | None, advance: Callable[..., None]) -> None:
    received, broken = 0, None
    try:
        while data := response.read(_CHUNK):
            if received == 0 and is_web_page(data):
                raise FetchError("the server sent a web page instead of the file")
            received += len(data)
            stream.write(data)
            advance(advance=len(data))
    except (OSError, http.client.HTTPException) as error:
        broken = error  # not a failure of the disk: that one shows when the stream is closed
    if broken or (total is not None and received != total):
        raise FetchError(
            f"the connection broke off after {received} of {total or 'an unknown number of'} bytes"
        ) from broken
    if received == 0:
        raise FetchError("the server sent an empty file")


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


def fetch_folder(repo: str) -> Path:
    """The configuration and the weights of a repository ("user/name", "user/name@revision")."""
    from huggingface_hub import snapshot_download

    from tcformer.weights.metadata import CONFIG, WEIGHTS

    name, _, revision = repo.partition("@")
    with plain_hub_errors(name):
        patterns = [CONFIG, WEIGHTS]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))


@contextlib.contextmanager
def plain_hub_errors(repo: str) -> Iterator[None]:
    """Everything huggingface_hub raises, as one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.HFValidationError as error:
        raise UserError(f"{repo!r} cannot name a repository; give user/name") from error
    except Exception as error:  # its own kinds, and those of the HTTP library of its version
        raise UserError(_why_no_hub(repo, error)) from error


def _why_no_hub(repo: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return (
            f"the Hub refuses {repo}: there is no valid token, or no such repository; log in with "
            "`hf auth login`, or set HF_TOKEN to a token that may do this"
        )
    if status == 403:
        return f"the Hub refuses {repo}: this token may not do that; use one that may write to it"
    if status == 404:
        return f"the Hub has no {repo}, or it is private and there is no token for it"
    said = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if status is not None:
        return f"the Hub answers {status} for {repo}: {said}"
    if isinstance(error, OSError) or "onnect" in type(error).__name__ or "offline" in said.lower():
        return f"the Hub cannot be reached for {repo} ({said}); save into a folder instead"
    return f"the Hub cannot take or give {repo}: {said}"
