"""Export one network to one file: trace, write, open again, compare, and only then keep it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tcformer import drawn
from tcformer.errors import UserError
from tcformer.export import parity
from tcformer.export.contract import INPUTS, OUTPUTS, Contract, Runner, trace
from tcformer.export.formats import OPSETS, Format, choose
from tcformer.export.parity import Times
from tcformer.files import check_writable, staging
from tcformer.images import check_seen, read_image
from tcformer.models import TCFormer
from tcformer.models.tcformer import CTM
from tcformer.predict import Loaded

__all__ = ["Report", "export"]


@dataclass(frozen=True)
class Report:
    """What was written, and how it compares.

    Attributes:
        files: what lies on the disk now.
        contract: what goes in and comes out.
        parity: the figures of the comparison.
        pictures: the images it was made on, in words.
        times: for each batch size that was timed.
    """

    files: tuple[Path, ...]
    contract: Contract
    parity: parity.Parity
    pictures: str
    times: tuple[Times, ...]


def export(
    loaded: Loaded,
    out: str | os.PathLike[str],
    *,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    input: str = "normalised",
    outputs: Sequence[str] = ("logits", "tokens"),
    opset: int | None = None,
    images: Sequence[str | Path] = (),
    time_batches: Sequence[int] = (),
) -> Report:
    """Write a network as a file for other programs, after checking that it does the same.

    Args:
        loaded: the network, from :func:`tcformer.predict.load`, on the CPU.
        out: the file; one that exists is replaced in one step.
        format: one of `FORMATS`; None takes the one whose files end like `out`.
        size: (height, width) of the images in pixels, fixed in the file; None is the square that
            the network was trained with.
        input: "normalised", or "pixels" for uint8 images that the graph normalises.
        outputs: some of "logits", "features" and "tokens".
        opset: version of ONNX's operators.
        images: image files to compare on; none for drawn scenes.
        time_batches: numbers of images for which to time the file beside PyTorch.

    Returns:
        The figures.

    Raises:
        UserError: something is not there or does not fit, the file cannot be written, or the
            exported model disagrees with PyTorch; then nothing is written.
    """
    chosen = choose(format, out)
    target = check_writable(out, made_from=[loaded.source, *images])
    network = _network(loaded)
    contract = _contract(loaded, size, input, outputs)
    if opset is not None and chosen.name != "onnx":
        raise UserError(f"--opset applies to ONNX, not to --format {chosen.name}")
    if opset is not None and not OPSETS[0] <= opset <= OPSETS[1]:
        low, high = OPSETS
        raise UserError(f"ONNX is written with an opset from {low} to {high}, not {opset}")
    if any(batch < 1 for batch in time_batches):
        raise UserError(f"--time needs batches of 1 image or more, not {list(time_batches)}")
    if images:
        seen = read_pictures(images, contract.size)
        words = f"{len(images)} image{'s' if len(images) > 1 else ''}"
    else:
        seen, words = drawn.scenes(contract.size), f"{drawn.NUM_SCENES} drawn scenes"
    words += f" and {drawn.NUM_EVEN} even pictures"
    batch = _as_input(loaded, contract, np.concatenate((drawn.even(contract.size), seen)))
    found = parity.Parity()
    times: list[Times] = []

    with tempfile.TemporaryDirectory(prefix="tcformer-export-") as folder:
        place = Path(folder, f"model{chosen.suffix}")

        if "tokens" not in contract.outputs:
            # The same network with its clusters laid open, to see that they are equal.
            other = replace(contract, outputs=(*contract.outputs, "tokens"))
            path = Path(folder, f"tokens{chosen.suffix}")
            _make(chosen, network, other, path, opset, batch, found)
        again = parity.Parity() if found.batches else found
        runner = _make(chosen, network, contract, place, opset, batch, again)
        for count in time_batches:
            some = np.resize(batch[drawn.NUM_EVEN :], (count, *batch.shape[1:]))
            times.append(parity.measure(network, contract, runner, some))
        # Old structure and new weights (.xml and .bin) must never be taken for one model.
        files = (target, target.with_suffix(".bin")) if chosen.name == "openvino" else (target,)
        with staging(target.parent, last=target.name) as scratch:
            for file in files:
                shutil.copyfile(place.with_suffix(file.suffix), scratch / file.name)
    return Report(files, contract, found, words, tuple(times))


def read_pictures(paths: Sequence[str | Path], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Image files, scaled to cover (height, width) and cut to it in the middle: (n, H, W, 3).

    Raises:
        UserError: a file is missing or not an image that can be read.
    """
    images = [Image.fromarray(read_image(path)) for path in paths]
    how = Image.Resampling.BICUBIC
    return np.stack([np.asarray(ImageOps.fit(image, size[::-1], how)) for image in images])


def _make(
    chosen: Format,
    network: TCFormer,
    contract: Contract,
    path: Path,
    opset: int | None,
    images: NDArray[Any],
    found: parity.Parity,
) -> Runner:
    """Write a file, open it, and compare on all images; a UserError if it disagrees."""
    chosen.write(trace(network, contract), contract, path, opset)
    runner = chosen.load(path, contract)
    # Each of the even pictures alone, and one other.
    for part in parity.batches(images, drawn.NUM_EVEN + 1):
        parity.compare(network, contract, runner, part, found)
    problem = found.problem()
    if problem is not None:
        raise UserError(
            f"the exported model disagrees with PyTorch, so nothing is written: {problem}"
        )
    return runner


def _network(loaded: Loaded) -> TCFormer:
    loaded.refuse_left_out("an exported file")
    network = loaded.network
    if not isinstance(network, TCFormer):
        raise UserError(f"{loaded.name} is no TCFormer; tcformer export writes TCFormers only")
    if loaded.device.type != "cpu" or network.training:
        raise UserError("export needs a network in evaluation mode on the CPU")
    dtypes = {parameter.dtype for parameter in network.parameters()}
    if dtypes != {torch.float32}:
        raise UserError(f"export needs float32, but {loaded.name} has {dtypes}")
    if any(module.density_noise for module in network.modules() if isinstance(module, CTM)):
        raise UserError(f"{loaded.name} draws noise, so no two runs agree: set density_noise to 0")
    return network


def _contract(
    loaded: Loaded, size: tuple[int, int] | None, input: str, outputs: Sequence[str]
) -> Contract:
    side = loaded.preprocessing.input_size
    height, width = (side, side) if size is None else size
    check_seen((height, width), what="an image")
    if input not in INPUTS:
        raise UserError(f"the input is {' or '.join(INPUTS)}, not {input!r}")
    for name in outputs:
        if name not in OUTPUTS:
            raise UserError(f"there is no output {name!r}; choose from {', '.join(OUTPUTS)}")
    if not outputs:
        raise UserError(f"no output is chosen: use one or more of {', '.join(OUTPUTS)}")
    if "logits" in outputs and not loaded.num_classes:
        raise UserError(
            f"{loaded.name} has no classifier, so it has no logits: use --outputs features "
            "and/or tokens"
        )
    spec = loaded.preprocessing.spec
    return Contract(
        loaded.name,
        (height, width),
        input,
        tuple(name for name in OUTPUTS if name in outputs),
        tuple(map(float, spec.norm_mean)),
        tuple(map(float, spec.norm_std)),
        loaded.classes,
        loaded.preprocessing.kept,
        loaded.preprocessing.interpolation,
    )


def _as_input(loaded: Loaded, contract: Contract, seen: NDArray[np.uint8]) -> NDArray[Any]:
    """(n, H, W, 3) pictures as the contract's input."""
    made = np.concatenate([loaded.preprocessing.normalize(picture).numpy() for picture in seen])
    if contract.input == "normalised":
        return np.ascontiguousarray(made)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (contract.mean, contract.std))
    pixels = (made * std + mean) * 255
    return np.ascontiguousarray(pixels.round().astype(np.uint8).transpose(0, 2, 3, 1))
