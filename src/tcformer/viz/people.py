"""A picture with its people and, for each of them, what the network saw and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tcformer.data.keypoints import Layout
from tcformer.data.keypoints.crop import Crop, warp
from tcformer.tokens import Tokens
from tcformer.viz.images import as_rgb, resize_image
from tcformer.viz.paint import paint_tokens
from tcformer.viz.sheet import Panel, Row, contact_sheet
from tcformer.viz.skeleton import draw_skeleton

Seen = tuple[Crop, NDArray[np.float64], NDArray[np.float64], Sequence[Tokens]]
"""Of one person: the crop, points (K, 2) in the picture, scores (K,), and the crop's tokens."""

_TALLEST = 768
_FINER = 3  # crops are drawn so many times larger than the network saw them


class HasInputSize(Protocol):
    """What is needed of a codec."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height."""
        ...


def people_sheet(
    picture: Any,
    drawn: Any,
    people: Sequence[Seen],
    layout: Layout,
    codec: HasInputSize,
    *,
    threshold: float = 0.2,
) -> NDArray[np.uint8]:
    """The picture with skeletons; below it a row for each person.

    A row shows what the network saw of the person with the skeleton, then the tokens of stages 2 to
    4. Each caption tells how much smaller a token is on the face and hands than on the whole: that
    detail gets the small tokens is what the network is built for.

    Args:
        picture: (H, W, 3) uint8.
        drawn: the same with skeletons.
        people: see `Seen`; the best ones first.
        layout: of the keypoints.
        codec: knows the size of the network's input.
        threshold: keypoints above it are drawn, and count as found.

    Returns:
        (height, width, 3) uint8.
    """
    pixels = torch.tensor(as_rgb(picture))
    width, height = codec.input_size
    # Hands and face where there are any: what is small and matters.
    fine = np.zeros(len(layout), bool)
    for part in set(layout.parts) - {"body"} if len(layout.parts) > 1 else layout.parts:
        fine[layout.slice(part)] = True
    rows = [Row((Panel(_shrunk(as_rgb(drawn)), "people"),))]
    for number, (crop, points, scores, stages) in enumerate(people, start=1):
        size = width * _FINER, height * _FINER
        view = _as_bytes(warp(pixels, crop.matrix(*size), *size))
        inside = crop.to_input(points, *size)
        skeleton = draw_skeleton(
            view,
            inside[None],
            scores[None],
            layout.links,
            parts=layout.parts,
            threshold=threshold,
        )
        panels = [Panel(skeleton, f"person {number}")]
        cells = crop.to_input(points, width, height)
        for stage, tokens in enumerate(stages[1:], start=2):
            cell_map = tokens.layout.cell_to_token[0]
            painted = paint_tokens(view, cell_map, scale=1, seen=(height, width))
            words = f"stage {stage}: {tokens.layout.num_tokens} tokens"
            share = detail(tokens, cells[fine & (scores > threshold)], (height, width))
            panels.append(Panel(painted, f"{words}{share}"))
        rows.append(Row(tuple(panels)))
    return contact_sheet(rows, font_size=14)


def detail(tokens: Tokens, found: NDArray[np.float64], seen: tuple[int, int]) -> str:
    """How large the tokens under some points are beside the mean token, in words.

    Args:
        tokens: of one crop.
        found: (N, 2) points in pixels of the crop.
        seen: height and width of the crop.
    """
    if not len(found):
        return ""
    sizes = token_sizes(tokens)
    rows, columns = tokens.layout.grid_size
    x = np.clip(found[:, 0] / seen[1] * columns, 0, columns - 1).astype(int)
    y = np.clip(found[:, 1] / seen[0] * rows, 0, rows - 1).astype(int)
    cells = tokens.layout.cell_to_token[0].cpu().numpy()
    under = sizes[cells[y * columns + x]].mean()
    return f", {under:.1f} cells on details, {sizes.mean():.1f} on average"


def token_sizes(tokens: Tokens) -> NDArray[np.int64]:
    """Cells of each token of the first image, (N,)."""
    cells = tokens.layout.cell_to_token[0].cpu().numpy()
    return np.bincount(cells, minlength=tokens.layout.num_tokens)


def _as_bytes(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """(3, H, W) float of 0 to 255 to (H, W, 3) uint8."""
    rounded = pixels.add(0.5).floor().clamp(0, 255).to(torch.uint8)
    return rounded.permute(1, 2, 0).contiguous().numpy()


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most `_TALLEST` pixels high and twice as wide."""
    height, width = picture.shape[:2]
    factor = min(1.0, _TALLEST / height, 2 * _TALLEST / width)
    if factor == 1.0:
        return picture
    return resize_image(picture, (max(1, round(height * factor)), max(1, round(width * factor))))
