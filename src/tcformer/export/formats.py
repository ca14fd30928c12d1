"""The formats, what each needs, and why it may not be there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram

from tcformer.errors import UserError, is_installed, nearest
from tcformer.export import onnx_file, openvino_file, torch_files
from tcformer.export.contract import Contract, Runner

__all__ = ["FORMATS", "Format", "choose"]

Writer = Callable[[ExportedProgram, Contract, Path, int | None], None]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: as it is asked for.
        suffix: with which its files end.
        about: what it is, for the help.
        write: makes the file.
        load: opens the file as it will be used, to check it.
        packages: what both import.
        extra: the extra of this package that brings those.
        compiled: whether a C++ compiler is needed.
    """

    name: str
    suffix: str
    about: str
    write: Writer
    load: Callable[[Path, Contract], Runner]
    packages: tuple[str, ...] = ()
    extra: str = ""
    compiled: bool = False

    def missing(self) -> str | None:
        """Why this machine cannot write and check such files, as a sentence; None if it can."""
        absent = [name for name in self.packages if not is_installed(name)]
        if absent:
            verb = "is" if len(absent) == 1 else "are"
            return (
                f"--format {self.name} needs {' and '.join(absent)}, which {verb} not installed: "
                f"pip install 'tcformer[{self.extra}]'"
            )
        if self.compiled and not _has_compiler():
            return (
                f"--format {self.name} compiles the model, and there is no C++ compiler: install "
                "g++, or set CXX to one"
            )
        return None


def _has_compiler() -> bool:
    named = os.environ.get("CXX", "").split()
    return any(shutil.which(name) for name in (named[:1] or ["g++", "clang++"]))


FORMATS = {
    each.name: each
    for each in (
        Format(
            "onnx",
            ".onnx",
            "one file for onnxruntime and many others",
            onnx_file.write,
            onnx_file.load,
            ("onnx", "onnxscript", "onnxruntime"),
            "export",
        ),
        Format(
            "pt2",
            ".pt2",
            "a graph of PyTorch's, by torch.export",
            torch_files.write_program,
            torch_files.load_program,
        ),
        Format(
            "aoti",
            ".pt2",
            "compiled for this processor, by AOTInductor",
            torch_files.write_package,
            torch_files.load_package,
            compiled=True,
        ),
        Format(
            "openvino",
            ".xml",
            "two files, .xml and .bin, for OpenVINO",
            openvino_file.write,
            openvino_file.load,
            ("onnx", "onnxscript", "openvino"),
            "export,openvino",
        ),
    )
}
"""Name -> format."""


def choose(name: str | None, out: str | os.PathLike[str] | None) -> Format:
    """The format of that name, else the first whose files end like `out`, else ONNX.

    Raises:
        UserError: no such format, the file's name does not end as its files do, or something that
            it needs is missing.
    """
    suffix = Path(out).suffix.lower() if out is not None else None
    if name is None:
        fitting = [each for each in FORMATS.values() if suffix in (None, each.suffix)]
        if not fitting:
            endings = ", ".join(dict.fromkeys(each.suffix for each in FORMATS.values()))
            raise UserError(f"the format of {out} is unclear: let its name end in {endings}")
        chosen = fitting[0]
    elif name in FORMATS:
        chosen = FORMATS[name]
    else:
        guess = nearest(name, FORMATS)
        hint = f"did you mean {guess}?" if guess else f"choose one of {', '.join(FORMATS)}."
        raise UserError(f"there is no format {name!r}; {hint}")
    if suffix not in (None, chosen.suffix):
        raise UserError(
            f"the name of a file of format {chosen.name} must end in {chosen.suffix}, "
            f"but it is {out}"
        )
    missing = chosen.missing()
    if missing is not None:
        raise UserError(missing)
    return chosen
