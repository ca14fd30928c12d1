"""The formats: how each is written and opened, what it needs, and why it may not be there.

Optional packages are imported where they are used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from tcformer.errors import UserError, is_installed, nearest
from tcformer.export.contract import Contract, Runner

__all__ = ["FORMATS", "OPSETS", "Format", "choose"]

OPSETS = (18, 23)
"""First and last version of ONNX's operators that are written."""

_OPSET = 20  # the first in which GELU is one operator
_LIMIT = 2**31 - 1  # bytes of an ONNX file: what protobuf can hold
_METADATA = "tcformer.json"  # what the contract says, as an extra file of a torch.export archive
# On processors with bfloat16 OpenVINO computes in it unless told otherwise. Distances in three
# digits choose other centers, so the tokens would be others than PyTorch's.
_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: as it is asked for.
        suffix: with which its files end.
        about: what it is, for the help.
        write: makes the file, for ONNX in a version of its operators.
        load: opens the file as it will be used, to check it.
        packages: what both import.
        extra: the extra of this package that brings those.
        compiled: whether a C++ compiler is needed.
    """

    name: str
    suffix: str
    about: str
    write: Callable[[ExportedProgram, Contract, Path, int | None], None]
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
        compilers = os.environ.get("CXX", "").split()[:1] or ["g++", "clang++"]
        if self.compiled and not any(map(shutil.which, compilers)):
            return (
                f"--format {self.name} compiles the model, and there is no C++ compiler: install "
                "g++, or set CXX to one"
            )
        return None


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks about its own insides, and about a GPU that is not asked for."""
    log = logging.getLogger("torch.utils.cpp_extension")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _write_onnx(
    program: ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    """Write one file, weights included, and have it checked."""
    import onnx

    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if weights > 0.95 * _LIMIT:
        raise UserError(
            f"the weights of {contract.model} take {weights / 2**30:.1f} GiB, and an ONNX file "
            "holds less than 2: export to torch.export (--format pt2) instead"
        )
    names = list(contract.output_names)
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=_OPSET if opset is None else opset,
            input_names=["images"],
            output_names=names,
            verbose=False,
        )
    assert made is not None
    for key, value in contract.metadata().items():
        made.model.metadata_props[key] = value
    made.save(str(path), external_data=False)
    model = onnx.load(str(path))
    graph = model.graph
    # Give the open side its name; torch's exporter calls it s34 or the like.
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(rf"\b{symbol}\b", "batch", side.dim_param)
    # Where in the sources every node came from: of no use to others, and never the same twice.
    for part in (graph, *graph.node, *graph.value_info, *model.functions):
        del part.metadata_props[:]
    onnx.save(model, str(path))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = [value.name for value in inferred.graph.output]
    if found != names:
        raise RuntimeError(f"the ONNX file has the outputs {found}, not {names}")


def _load_onnx(path: Path, contract: Contract) -> Runner:
    """Open the file in onnxruntime, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = contract.output_names

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = map(np.asarray, session.run(list(names), {"images": images}))
        return dict(zip(names, found, strict=True))

    return run


def _write_openvino(
    program: ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    """Convert the graph and write NAME.xml and, with the weights in float32, NAME.bin.

    By way of ONNX: OpenVINO reads PyTorch's graphs too, but not the largest score of a cluster.
    """
    import openvino
    from openvino import opset11

    between = path.with_suffix(".onnx")
    _write_onnx(program, contract, between, opset)
    model = openvino.convert_model(str(between))
    # Let sorted TopKs give equal values by index, as ONNX demands; the reader forgets it.
    for node in model.get_ordered_ops():
        said = node.get_attributes() if node.get_type_name() == "TopK" else {"sort": "none"}
        if said["sort"] == "none":
            continue
        arguments = (said[name] for name in ("axis", "mode", "sort", "index_element_type"))
        inputs = node.input_value(0), node.input_value(1)
        stable = opset11.topk(*inputs, *arguments, stable=True)
        for ours, theirs in zip(stable.outputs(), node.outputs(), strict=True):
            theirs.replace(ours)
    for key, text in contract.metadata().items():
        model.set_rt_info(text, ["tcformer", key])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _load_openvino(path: Path, contract: Contract) -> Runner:
    """Compile the file for the processor, in float32, on as many threads as torch has."""
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", {**_PRECISION, **threads})

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = compiled({"images": images})
        return {name: np.array(found[name]) for name in contract.output_names}

    return run


def _write_program(
    program: ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    with _quiet():
        extra = {_METADATA: json.dumps(contract.metadata())}
        torch.export.save(program, path, extra_files=extra)


def _load_program(path: Path, contract: Contract) -> Runner:
    extra = {_METADATA: ""}
    with _quiet():
        module = torch.export.load(path, extra_files=extra).module()
    if json.loads(extra[_METADATA]) != contract.metadata():
        raise RuntimeError(f"{path.name} does not say of itself what was written")
    return _by_torch(module, contract)


def _write_package(
    program: ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    """Compile the graph and save the library with its weights."""
    from torch._inductor.exc import InductorError

    try:
        with _quiet():
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(path),
                inductor_configs={"aot_inductor.metadata": contract.metadata()},
            )
    except InductorError as error:
        raise UserError(
            f"{contract.model} could not be compiled; check the C++ compiler ($CXX, or g++): "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def _load_package(path: Path, contract: Contract) -> Runner:
    with _quiet():
        return _by_torch(torch._inductor.aoti_load_package(str(path)), contract)


def _by_torch(module: Callable[[torch.Tensor], Any], contract: Contract) -> Runner:
    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            # A compiled model takes the memory order for granted and would read other pixels.
            found = module(torch.from_numpy(images).contiguous())
        arrays = [value.numpy() for value in found]
        return dict(zip(contract.output_names, arrays, strict=True))

    return run


FORMATS = {
    each.name: each
    for each in (
        Format(
            "onnx",
            ".onnx",
            "one file for onnxruntime and many others",
            _write_onnx,
            _load_onnx,
            ("onnx", "onnxscript", "onnxruntime"),
            "export",
        ),
        Format(
            "pt2", ".pt2", "a graph of PyTorch's, by torch.export", _write_program, _load_program
        ),
        Format(
            "aoti",
            ".pt2",
            "compiled for this processor, by AOTInductor",
            _write_package,
            _load_package,
            compiled=True,
        ),
        Format(
            "openvino",
            ".xml",
            "two files, .xml and .bin, for OpenVINO",
            _write_openvino,
            _load_openvino,
            ("onnx", "onnxscript", "openvino"),
            "export,openvino",
        ),
    )
}
"""Name -> format."""
