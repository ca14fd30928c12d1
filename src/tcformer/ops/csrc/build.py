"""Compile the kernels, keep them in a cache, load them.

A library in the cache is named after everything that went into it (sources, flags, compiler,
processor) and after its own content, so a changed source or another processor never loads an old
one, and a damaged file is noticed and compiled again. The cache folder belongs to this user alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tcformer.errors import UserError
from tcformer.files import cache_folder

HERE = Path(__file__).parent
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
COMPILE_SECONDS = 180


class Unavailable(Exception):
    """There are no C++ kernels; the message says why."""


def load() -> tuple[ctypes.CDLL, Path]:
    """The library, ready for use, and its file; Unavailable as for :func:`prepare`."""
    path = prepare()
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from error
    loaded.tcf_set_fork.restype = None
    loaded.tcf_set_fork(openmp_fork())
    return loaded, path


def prepare() -> Path:
    """The file of the library in the cache, compiled first where it is not there yet.

    Raises:
        Unavailable: switched off, no compiler, a compiler that fails, no folder to write in.
    """
    if os.environ.get("TCFORMER_NATIVE", "1") == "0":
        raise Unavailable("TCFORMER_NATIVE is 0 in the environment")
    if os.name != "posix":
        raise Unavailable("they are compiled on Linux and macOS only")
    compiler = find_compiler()
    sources = sorted(HERE.parent.glob("*/kernels.cpp"))
    key = _key(sources, compiler)
    folder = private_folder()
    path = _cached(folder, key)
    if path is None:
        with _alone(folder / "lock"):
            path = _cached(folder, key) or _compile(sources, compiler, folder, key)
    return path


def find_compiler() -> list[str]:
    """The command of a C++ compiler: that of the variable CXX, else g++ or clang++."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise Unavailable(f"the compiler that CXX names, {chosen[0]}, is not on the path")
        return chosen
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise Unavailable("they need a C++ compiler, and neither g++ nor clang++ is on the path")


def openmp_fork() -> ctypes.c_void_p:
    """Where the OpenMP runtime of torch starts its threads, or null: then kernels use one.

    Looked up through torch's own library, which finds the runtime that torch depends on among all
    that other packages may have brought along. So there is one pool of threads, not two.
    """
    ending = "dylib" if sys.platform == "darwin" else "so"
    path = Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{ending}"
    try:
        fork = ctypes.CDLL(str(path)).GOMP_parallel
    except (OSError, AttributeError):
        return ctypes.c_void_p(None)
    return ctypes.cast(fork, ctypes.c_void_p)


def private_folder() -> Path:
    """A folder that this user can write in and nobody else; in the temporary one if need be.

    Code is loaded from there, so a folder of somebody else, or one open to others, is refused.
    """
    name = f"native-{os.getuid()}"
    places = [Path(tempfile.gettempdir()) / f"tcformer-{name}"]
    with contextlib.suppress(UserError):  # no home folder
        places.insert(0, cache_folder() / name)
    refused = []
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                refused.append(f"{place} belongs to somebody else")
            elif stat.S_IMODE(found.st_mode) & 0o077:
                refused.append(f"{place} is open to other users (chmod 700 mends it)")
            else:
                with tempfile.TemporaryFile(dir=place):  # a read-only disk shows only now
                    return place
        except OSError as error:
            refused.append(f"{place} cannot be written ({error.strerror})")
    raise Unavailable("there is no folder to keep them in: " + "; ".join(refused))


def _key(sources: list[Path], compiler: list[str]) -> str:
    try:
        version = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the compiler {compiler[0]} does not run: {error}") from error
    digest = hashlib.sha256()
    for path in [*sorted(HERE.parent.glob("*/*.h")), *sources]:
        digest.update(path.read_bytes())
    for text in (version, *compiler, *COMMON, platform.machine(), sys.platform, _processor()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:24]


def _processor() -> str:
    """What -march=native depends on: kind and instruction sets of the first processor."""
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))


def _cached(folder: Path, key: str) -> Path | None:
    for path in folder.glob(f"{key}-*.so"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if path.name == _name(key, content):
            return path
        with contextlib.suppress(OSError):
            path.unlink()  # damaged
    return None


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()[:24]}.so"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process compile while the others wait; a help, not a need: results are replaced."""
    with path.open("w") as lock:
        try:
            import fcntl

            until = time.monotonic() + COMPILE_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.05)
        except OSError:
            pass  # a file system without locks
        yield


def _compile(sources: list[Path], compiler: list[str], folder: Path, key: str) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        built = Path(temporary) / "kernels.so"
        log = folder / f"{key}.log"
        lines: list[str] = []
        try:
            for number, native in enumerate(native_flags()):
                try:
                    _build(sources, [*compiler, *COMMON, *native], built, lines)
                    break
                except Unavailable:
                    # A compiler that does not know its processor still makes a library.
                    if number + 1 == len(native_flags()):
                        raise
        except Unavailable as error:
            raise Unavailable(f"{error}; the compiler's words are in {log}") from None
        finally:
            with contextlib.suppress(OSError):
                log.write_text("\n".join(lines) + "\n")
        content = built.read_bytes()
        path = folder / _name(key, content)
        os.replace(built, path)
    with contextlib.suppress(OSError):
        log.replace(path.with_suffix(".log"))
    return path


def native_flags() -> list[list[str]]:
    """Flags that aim at this processor, best first; the last ones aim at none."""
    wide = ["-march=native", "-mprefer-vector-width=512"]
    if platform.machine().lower() not in ("x86_64", "amd64"):
        wide = ["-mcpu=native"]
    return [wide, ["-march=native"], []]


def _build(sources: list[Path], command: list[str], built: Path, lines: list[str]) -> None:
    """Compile every source by a process of its own, side by side, then link them."""
    objects = [built.with_name(f"{source.parent.name}.o") for source in sources]
    jobs = [
        [*command, f"-I{HERE}", "-c", str(source), "-o", str(target)]
        for source, target in zip(sources, objects, strict=True)
    ]
    _run_all(jobs, lines)
    _run_all([[*command, "-shared", *map(str, objects), "-o", str(built)]], lines)


def _run_all(jobs: list[list[str]], lines: list[str]) -> None:
    running: list[subprocess.Popen[str]] = []
    failed = None
    try:
        for job in jobs:
            running.append(
                subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        for job, process in zip(jobs, running, strict=True):
            output, _ = process.communicate(timeout=COMPILE_SECONDS)
            lines += [shlex.join(job), *output.splitlines()]
            if process.returncode:
                failed = failed or f"{shlex.join(job[:1])} failed with status {process.returncode}"
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the compiler took more than {COMPILE_SECONDS} s") from error
    except OSError as error:
        raise Unavailable(f"the compiler does not run: {error}") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    if failed:
        raise Unavailable(failed)
