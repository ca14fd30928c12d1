"""Files of PyTorch: a graph (torch.export), and one compiled for this processor (AOTInductor)."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tcformer.errors import UserError
from tcformer.export.contract import Contract, Runner

METADATA = "tcformer.json"
"""What the contract says, as an extra file of a torch.export archive."""


def write_program(
    program: torch.export.ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    """Save the graph."""
    extra = {METADATA: json.dumps(contract.metadata())}
    with _quiet():
        torch.export.save(program, path, extra_files=extra)


def load_program(path: Path, contract: Contract) -> Runner:
    """Read the graph back and run it in PyTorch."""
    extra = {METADATA: ""}
    with _quiet():
        module = torch.export.load(path, extra_files=extra).module()
    if json.loads(extra[METADATA]) != contract.metadata():
        raise RuntimeError(f"{path.name} does not say of itself what was written")
    return _runner(module, contract)


def write_package(
    program: torch.export.ExportedProgram, contract: Contract, path: Path, opset: int | None
) -> None:
    """Compile the graph and save the library with its weights."""
    from torch._inductor.exc import InductorError

    try:
        with _quiet(), torch.no_grad():
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


def load_package(path: Path, contract: Contract) -> Runner:
    """Load the compiled library."""
    with _quiet():
        model = torch._inductor.aoti_load_package(str(path))
    return _runner(model, contract)


def _runner(module: Callable[[Tensor], Any], contract: Contract) -> Runner:
    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            # A compiled model takes the memory order for granted and would read other pixels.
            found = module(torch.from_numpy(images).contiguous())
        return {
            name: value.numpy() for name, value in zip(contract.output_names, found, strict=True)
        }

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks about its own insides, and about a GPU that is not asked for."""
    log = logging.getLogger("torch.utils.cpp_extension")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
