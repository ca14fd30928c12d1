"""The command `tcformer`: one verb, one file in this folder.

This module only dispatches. It imports neither torch nor any verb, so `tcformer --help` answers at
once; the module of a verb is imported when that verb is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from tcformer._early import obey_ctrl_c
from tcformer.errors import UserError, cut, nearest, printable
from tcformer.files import FULL, is_full

VERBS = {
    "demo": "train, evaluate and draw tokens on handwritten digits; a few minutes on a CPU",
    "train": "train a network from a configuration file",
    "evaluate": "measure a checkpoint on a validation set",
    "predict": "say what is in images: the most probable classes",
    "confusion": "say which classes a network confuses, and draw its right and wrong answers",
    "pose": "find the keypoints of people in pictures and videos, and draw them",
    "evaluate-keypoints": "measure a file of keypoints against annotations: AP, or a face's error",
    "show": "draw the tokens of images, stage by stage",
    "serve": "look at tokens in a browser: a local page that needs no network",
    "export": "write a network for onnxruntime, OpenVINO or AOTInductor, and check it",
    "convert": "turn checkpoints into safetensors and back",
    "hub": "write a checkpoint in timm's hub format, or push it to the Hub",
    "download": "fetch, verify and cache the weights the authors published",
    "flops": "count parameters and operations of a model",
    "bench": "time models and ops side by side, and keep a record of it",
    "doctor": "say what this machine has and which fast paths are on",
}
"""Every verb with its line in `tcformer --help`. A test holds each module to the same line."""

# These run for long and save when told to stop. Their signal handlers must stand before torch is
# imported, which can take long enough for a scheduler's signal to arrive meanwhile.
_INTERRUPTIBLE = ("train", "evaluate", "demo")

# What `pip install tcformer` brings; a verb that misses one runs in the wrong environment.
_REQUIRED = (
    "torch", "torchvision", "timm", "numpy", "PIL", "safetensors", "huggingface_hub", "rich",
)  # fmt: skip

# Package -> its module, the extra that brings it, what it is for.
EXTRAS = {
    "scikit-learn": ("sklearn", "demo", "the digits data set, so `tcformer demo`"),
    "tensorboard": ("tensorboard", "train", "TensorBoard event files"),
    "matplotlib": ("matplotlib", "bench", "`tcformer bench --plot`"),
    "gradio": ("gradio", "serve", "`tcformer serve`"),
    "gdown": ("gdown", "weights", "`tcformer download` from the authors' Google Drive"),
    "pycocotools": ("pycocotools", "pose", "the average precision of keypoints"),
    "av": ("av", "pose", "videos in `tcformer pose`"),
    "onnx": ("onnx", "export", "`tcformer export`"),
    "onnxscript": ("onnxscript", "export", "`tcformer export`"),
    "onnxruntime": ("onnxruntime", "export", "`tcformer export`"),
    "openvino": ("openvino", "openvino", "`tcformer export --format openvino`"),
}

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_SIGINT = 130
EXIT_SIGPIPE = 141


def usage() -> str:
    """The text of `tcformer --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {line}" for verb, line in VERBS.items()]
    return "\n".join(
        [
            "usage: tcformer VERB [options]",
            "",
            "TCFormer, the Token Clustering Transformer: train it, measure it, look at its tokens.",
            "",
            "verbs:",
            *lines,
            "",
            "options:",
            "  --help     this text; `tcformer VERB --help` explains one verb",
            "  --version  the version of this package",
            "",
            "New here? `tcformer demo` needs no data and no GPU.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's) and return its exit status.

    0 is success, 2 a mistake that one sentence on stderr explains, 130 an interruption from the
    keyboard, 141 a reader such as `head` that closed our output. A verb may return others.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold bytes that are no text; printing it must not end the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_SIGINT
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # a pipe of our own broke, such as one to a data worker: that is a real error
        return EXIT_SIGPIPE
    except UserError as problem:
        from tcformer.runtime.launcher import speak_after_main

        speak_after_main()  # one sentence, even from eight processes
        sentence = str(problem)
    except ModuleNotFoundError as missing:
        sentence = _advice(missing)
        if not sentence:
            raise
    except OSError as error:
        if is_full(error):
            _mute(sys.stdout)
            sentence = f"the output cannot be written: {FULL}."
        elif isinstance(error.filename, (str, bytes)):
            # A name that is too long, a folder that may not be entered: no defect of ours.
            name = cut(os.fsdecode(error.filename))
            sentence = f"{name}: {error.strerror}; give another name or permission."
        else:
            raise
    print(f"error: {printable(sentence)}", file=sys.stderr)
    return EXIT_USAGE


def _advice(missing: ModuleNotFoundError) -> str:
    """What to do about a package that is not installed; empty if it is none that we know."""
    package = (missing.name or "").partition(".")[0]
    found = f"the package {package} is not installed for {sys.executable}: "
    if package in _REQUIRED:
        return (
            f"{found}run `make demo` once, which sets up .venv, or `pip install .`, or set PYTHON "
            "to one that has it."
        )
    extras = [extra for module, extra, _ in EXTRAS.values() if module == package]
    return f"{found}pip install 'tcformer[{extras[0]}]'." if extras else ""


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_OK if args else EXIT_USAGE
    if args[0] in ("-V", "--version"):
        from tcformer import __version__

        print(f"tcformer {__version__}")
        return EXIT_OK
    return _run_verb(args[0], args[1:])


def _run_verb(verb: str, rest: list[str]) -> int:
    if verb not in VERBS:
        what = "option" if verb.startswith("-") else "verb"
        guess = nearest(verb, [*VERBS, "--help", "--version"])
        hint = f"did you mean `tcformer {guess}`?" if guess else "see `tcformer --help`."
        raise UserError(f"tcformer has no {what} {verb!r}; {hint}")
    if verb in _INTERRUPTIBLE:
        from tcformer.runtime.signals import install_early

        install_early()
    obey_ctrl_c()
    # Large pages for large tensors (Linux); torch looks this up when it first allocates. On 2 cores
    # a forward pass of 8 images took 18 to 33 % less time, our models' and timm's alike.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    module = f"tcformer.cli.{verb.replace('-', '_')}"
    run: Callable[[list[str]], int] = importlib.import_module(module).main
    try:
        return run(rest)
    except SystemExit as leaving:  # argument parsers leave this way, after --help as well
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or EXIT_OK


def _reader_is_gone() -> bool:
    """Whether nobody reads our stdout or stderr any more; if so, send the rest nowhere."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in gone:
        _mute(stream)
    return bool(gone)


def _mute(stream: TextIO) -> None:
    """Send the rest nowhere: Python flushes once more at exit and would complain about it."""
    with contextlib.suppress(OSError, ValueError):  # replaced by something that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _has_no_reader(stream: TextIO) -> bool:
    # Flushing would not tell: an unbuffered stream holds nothing that could fail again.
    poller = select.poll()
    try:
        poller.register(stream, 0)  # errors are reported whatever is asked for
    except (AttributeError, TypeError, ValueError):
        return False  # replaced by something that is no file, as test runners do
    return any(event & select.POLLERR for _, event in poller.poll(0))
