"""OpenVINO: converted from the ONNX file, run in full precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tcformer.export import onnx_file
from tcformer.export.contract import Contract, Runner

PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""On processors with bfloat16 OpenVINO computes in it unless told otherwise. Distances in three
digits choose other centres, so the tokens would be others than PyTorch's.
"""


def write(
    program: torch.export.ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    """Convert the graph and write NAME.xml and, with the weights in float32, NAME.bin.

    By way of ONNX: OpenVINO reads PyTorch's graphs too, but not the largest score of a cluster.
    """
    import openvino

    between = path.with_suffix(".onnx")
    onnx_file.write(program, contract, between, opset)
    model = openvino.convert_model(str(between))
    _keep_order(model)
    for key, value in contract.metadata().items():
        model.set_rt_info(value, ["tcformer", key])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _keep_order(model: Any) -> None:
    """Let sorted TopKs give equal values by index, as ONNX demands; the reader forgets it."""
    from openvino import opset11

    for node in model.get_ordered_ops():
        if node.get_type_name() != "TopK":
            continue
        told = node.get_attributes()
        if told["sort"] == "none":
            continue
        stable = opset11.topk(
            node.input_value(0),
            node.input_value(1),
            told["axis"],
            told["mode"],
            told["sort"],
            told["index_element_type"],
            stable=True,
        )
        for ours, theirs in zip(stable.outputs(), node.outputs(), strict=True):
            theirs.replace(ours)


def load(path: Path, contract: Contract) -> Runner:
    """Compile the file for the processor, in float32, on as many threads as torch has."""
    import openvino

    core = openvino.Core()
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(str(path), "CPU", {**PRECISION, **threads})
    names = contract.output_names

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = compiled({"images": images})
        return {name: np.array(found[name]) for name in names}

    return run
