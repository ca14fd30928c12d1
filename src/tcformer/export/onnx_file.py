"""ONNX: written by torch's exporter, checked by onnx, run by onnxruntime."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.export.contract import Contract, Runner

OPSETS = (18, 23)
"""First and last version of ONNX's operators that are written."""

DEFAULT_OPSET = 20
"""The first in which GELU is one operator."""

LIMIT = 2**31 - 1
"""Bytes of a file: what protobuf can hold."""


def write(
    program: torch.export.ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    """Write one file, weights included, and have it checked."""
    import onnx

    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if weights > 0.95 * LIMIT:
        raise UserError(
            f"the weights of {contract.model} take {weights / 2**30:.1f} GiB, and an ONNX file "
            "holds less than 2: export to torch.export (--format pt2) instead"
        )
    names = contract.output_names
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own insides
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=DEFAULT_OPSET if opset is None else opset,
            input_names=["images"],
            output_names=list(names),
            verbose=False,
        )
    assert made is not None
    for key, value in contract.metadata().items():
        made.model.metadata_props[key] = value
    made.save(str(path), external_data=False)
    model = onnx.load(str(path))
    _call_batch(model.graph)
    # Where in the sources every node came from: of no use to others, and never the same twice.
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.functions):
        del part.metadata_props[:]
    onnx.save(model, str(path))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = [value.name for value in inferred.graph.output]
    if found != list(names):
        raise RuntimeError(f"the ONNX file has the outputs {found}, not {list(names)}")


def _call_batch(graph: Any) -> None:
    """Give the open side its name; torch's exporter calls it s34 or the like."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(rf"\b{symbol}\b", "batch", side.dim_param)


def load(path: Path, contract: Contract) -> Runner:
    """Open the file in onnxruntime, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = contract.output_names

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = session.run(list(names), {"images": images})
        return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}

    return run
