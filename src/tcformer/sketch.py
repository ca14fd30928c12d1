"""What a notebook shows for tokens: a sentence and small pictures, as plain HTML with SVG.

It lies below `tcformer.tokens` and takes arrays, so that a value can show itself without an
imaging library, without IPython, and without knowing `tcformer.viz`, which draws on the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tcformer.partition import distinct_colors, outlines

SHOWN = 4
"""Images of a batch that are drawn."""

MOST_TOKENS = 4096
"""A token is a path; browsers become slow with more."""

SIDE = 168
"""Longer side of a picture in CSS pixels."""


def sketch_html(title: str, maps: NDArray[np.int64] | None, grid_size: tuple[int, int]) -> str:
    """A piece of HTML that shows where tokens lie.

    Args:
        title: a sentence about them, plain text without < or &.
        maps: (B, H0*W0) integers, the token of each cell; None where values are not at hand.
        grid_size: (H0, W0).

    Returns:
        one <div>; the same for the same input.
    """
    parts = [f'<div style="font-family:sans-serif;font-size:13px"><div>{title}</div>']
    if maps is not None and maps.size:
        if len(np.unique(maps[0])) > MOST_TOKENS:
            parts.append("<div>Too many to be drawn here: see tcformer.viz.draw_tokens.</div>")
        else:
            parts += [sketch_svg(one.reshape(grid_size)) for one in maps[:SHOWN]]
            if len(maps) > SHOWN:
                parts.append(f"<div>and {len(maps) - SHOWN} more</div>")
    return "".join([*parts, "</div>"])


def sketch_svg(tokens: NDArray[np.int64]) -> str:
    """One map as an <svg>: a flat colour for each token, neighbours differ.

    Args:
        tokens: (H0, W0) integers of at least 0.
    """
    height, width = tokens.shape
    scale = SIDE / max(height, width)
    cells = np.bincount(tokens.ravel())
    colors = distinct_colors(tokens)
    paths = []
    for token, loops in outlines(tokens).items():
        shape = "".join(
            "M" + "L".join(f"{x} {y}" for x, y in loop.tolist()) + "Z" for loop in loops
        )
        red, green, blue = colors[token].tolist()
        words = f"token {token}: {cells[token]} cell{'s' if cells[token] > 1 else ''}"
        paths.append(
            f'<path fill="#{red:02x}{green:02x}{blue:02x}" d="{shape}">'
            f"<title>{words}</title></path>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width * scale:.0f}" height="{height * scale:.0f}" '
        'style="margin:4px 8px 0 0" shape-rendering="crispEdges">'
        f'<g stroke="#fff" stroke-width="{max(height, width) / 400:g}">{"".join(paths)}</g></svg>'
    )
