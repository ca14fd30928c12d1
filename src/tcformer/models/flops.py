"""What a model costs: by the accounting of the published tables, and as really executed.

One multiply-add is 1 everywhere in this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from tcformer.arguments import as_int
from tcformer.models.sizes import MergeRule
from tcformer.models.tcformer import CTM
from tcformer.tokens import grid_layout


@dataclass(frozen=True)
class Stage:
    """What the accounting asks of one stage; `reduction` is the side of its key windows."""

    channels: int
    hidden: int
    reduction: int
    depth: int


@dataclass(frozen=True)
class Geometry:
    """The sizes of a classifier, and how it merges its tokens."""

    in_chans: int
    stages: tuple[Stage, ...]
    classes: int
    merges: tuple[MergeRule, ...]


def geometry(network: nn.Module | Mapping[str, Tensor]) -> Geometry:
    """Read the sizes of a network, or of a state dict in the published layout.

    A state dict tells nothing of the merges: it is taken for one of V1, which clusters over the
    whole image and keeps a quarter.
    """
    parameters = network.state_dict() if isinstance(network, nn.Module) else network
    stem = parameters["patch_embed1.proj.weight"]
    stages = []
    number = 1
    while f"norm{number}.weight" in parameters:
        prefix = f"block{number}."
        blocks = {name.split(".")[1] for name in parameters if name.startswith(prefix)}
        window = parameters.get(f"{prefix}0.attn.sr.weight")
        stages.append(
            Stage(
                channels=len(parameters[f"norm{number}.weight"]),
                hidden=len(parameters[f"{prefix}0.mlp.fc1.bias"]),
                reduction=1 if window is None else window.shape[-1],
                depth=len(blocks),
            )
        )
        number += 1
    head = parameters.get("head.weight")
    merges = [MergeRule()] * (len(stages) - 1)
    if isinstance(network, nn.Module):
        merges = [module.rule for module in network.modules() if isinstance(module, CTM)]
    return Geometry(stem.shape[1], tuple(stages), 0 if head is None else len(head), tuple(merges))


def published_flops(sizes: Geometry, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of one image by the rules behind the published GFLOPs, part by part.

    The rules are kept as they are, also where they are generous: a bias or a LayerNorm costs
    something, softmax and GELU nothing, and stage 4's first block is charged for a quarter of the
    keys that it attends to. `docs/numerics.md` lists them; `executed_flops` measures instead.

    Args:
        sizes: of the network, see `geometry`.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        Part of the network -> multiply-adds, in the order of execution. The parts "cluster*" are
        clustering and merging.
    """
    height, width = as_int("height", height), as_int("width", width)
    rows, columns = ceil(height / 4), ceil(width / 4)
    tokens = cells = rows * columns
    layout = grid_layout(1, (rows, columns), torch.device("meta"))
    channels = sizes.stages[0].channels
    parts = {"stem": _conv(49 * sizes.in_chans, channels, cells) + _norm(cells, channels)}
    for number, stage in enumerate(sizes.stages, start=1):
        before = tokens
        if number > 1:
            merge = sizes.merges[number - 2]
            grids, windows, each = merge.plan(layout)
            rows, columns, tokens = ceil(rows / 2), ceil(columns / 2), windows * each
            layout = layout._replace(num_tokens=tokens, map_size=(rows, columns), part_grids=grids)
            parts[f"ctm{number - 1}"] = _ctm(channels, stage, cells, before, rows * columns)
            parts[f"cluster{number - 1}"] = _cluster(before, stage.channels, merge.k, windows)
            channels = stage.channels
        grid = (cells, tokens, rows, columns)
        parts[f"block{number}"] = sum(
            _block(stage, grid, dynamic=number > 1, before=before if block == 0 else None)
            for block in range(stage.depth)
        )
        parts[f"norm{number}"] = _norm(tokens, channels)
    parts["head"] = channels * sizes.classes
    return parts


def executed_flops(model: nn.Module, height: int, width: int) -> int:
    """Multiply-adds that PyTorch counts in one forward of one image on the model's device.

    Half of what `torch.utils.flop_counter.FlopCounterMode` says around that forward: matrix
    products, convolutions, attention, and the products of clustering. Sorting, gathering, norms
    and everything elementwise are not in it. Our operators have formulas, so it is the same with
    and without compiled kernels (docs/numerics.md).
    """
    from torch.utils.flop_counter import FlopCounterMode

    weight = next(model.parameters())
    in_chans = model.get_parameter("patch_embed1.proj.weight").shape[1]
    height, width = as_int("height", height), as_int("width", width)
    image = torch.zeros(1, in_chans, height, width, device=weight.device, dtype=weight.dtype)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        model.train(training)
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two


def _conv(inputs: int, outputs: int, pixels: int) -> int:
    """A convolution with bias; `inputs` is the number of values below one output value."""
    return (inputs + 1) * outputs * pixels


def _norm(items: int, channels: int) -> int:
    return 2 * items * channels


def _conversion(cells: int, channels: int) -> int:
    """Tokens to map or back, whatever the algorithm."""
    return cells * (4 + channels)


def _ctm(channels: int, stage: Stage, cells: int, tokens: int, pixels: int) -> int:
    out = stage.channels
    conv = _conv(9 * channels, out, pixels) + tokens * channels * out
    score = _norm(tokens, out) + tokens * out
    return conv + _conversion(cells, channels) + _conversion(cells, out) + score


def _cluster(tokens: int, channels: int, k: int, windows: int) -> int:
    pairs = tokens * tokens // windows  # inside windows only
    return pairs * channels + pairs + tokens * (k + channels)


def _block(stage: Stage, grid: tuple[int, ...], *, dynamic: bool, before: int | None) -> int:
    """One block; a `dynamic` one that opens its stage attends to the `before` un-merged tokens."""
    cells, tokens, rows, columns = grid
    channels, hidden = stage.channels, stage.hidden
    # A small map has a small window.
    window = min(stage.reduction, rows), min(stage.reduction, columns)
    windows = (rows // window[0]) * (columns // window[1])
    unmerged = before if dynamic else None
    count = _norm(tokens, channels) + (_norm(unmerged, channels) if unmerged else 0)
    keys = unmerged or tokens
    if stage.reduction > 1:
        keys = windows
        count += _conv(window[0] * window[1] * channels, channels, keys) + _norm(keys, channels)
    count += 2 * tokens * channels**2 + 2 * keys * channels**2  # q and proj, then k and v
    count += 2 * tokens * windows * channels  # scores and their weighted sum
    count += _norm(tokens, channels) + 2 * tokens * channels * hidden
    count += _conv(9, hidden, rows * columns)
    if dynamic:  # the grid of stage 1 is a map already, and its convolution has no skip
        count += tokens * hidden + 2 * _conversion(cells, hidden)
        count += _conversion(cells, channels) if stage.reduction > 1 else 0
    return count
