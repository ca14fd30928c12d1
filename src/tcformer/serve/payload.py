"""One picture and the networks that look at it, as the data that the browser draws.

Pictures are painted here, by `tcformer.viz`. With them go the maps of cells to tokens, two bytes a
cell, so that the browser can follow the mouse without asking back; `static/map.js` reads them.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tcformer import viz
from tcformer.images import png_bytes, resize_image, seen_size, unnormalize

if TYPE_CHECKING:
    from tcformer.predict import Loaded

Paint = Literal["mean colours", "colours by family", "outlines"]
PAINTS: tuple[Paint, ...] = get_args(Paint)
"""How tokens are painted: mean colour; one colour for all that ends up in one token; not at all."""

View = Literal["whole picture", "centre crop, as in evaluation"]
VIEWS: tuple[View, ...] = get_args(View)
"""What the network sees. Evaluation (and `tcformer predict`) crops the centre."""

TOP = 5
PANEL = 640
"""Wished length of a picture's longer side as it is sent, in pixels."""

_serial = itertools.count(1)


class Look(NamedTuple):
    """What is asked for: how to paint, what part to see, the short side in pixels."""

    paint: Paint = "mean colours"
    view: View = "whole picture"
    size: int | Literal["full"] | None = None
    """None is the size the network was trained with; smaller pictures stay as they are."""


def page_data(
    name: str, image: NDArray[np.uint8], networks: Sequence[tuple[str, Loaded]], look: Look
) -> str:
    """Everything the browser needs to show a picture, (H, W, 3) uint8, as JSON.

    `networks` are label and network of each view, one or two. Raises `UserError` where the picture
    cannot be seen at the size that is asked for.
    """
    views = [view_data(label, loaded, image, look) for label, loaded in networks]
    data = {"serial": next(_serial), "name": name, "original": image.shape[:2], "views": views}
    return json.dumps(data, separators=(",", ":"))


def view_data(label: str, loaded: Loaded, image: NDArray[np.uint8], look: Look) -> dict[str, Any]:
    """What one network makes of a picture; keys as `static/map.js` reads them."""
    import torch

    picture, batch = seen(loaded, image, look)
    with torch.inference_mode():
        tokens = loaded.backbone.forward_tokens(batch.to(loaded.device))
        top = []
        if loaded.num_classes:
            shares = loaded.backbone.forward_head(tokens[-1].x)[0].float().softmax(-1)
            best = shares.sort(descending=True, stable=True)
            numbers = zip(best.indices[:TOP].tolist(), best.values[:TOP].tolist(), strict=True)
            top = [(loaded.classes[i], round(share, 6)) for i, share in numbers]
    scale = viz.panel_scale(picture.shape[:2], PANEL)
    return {
        "label": label,
        "size": picture.shape[:2],
        "grid": list(tokens[0].layout.grid_size),
        "scale": scale,
        "picture": data_uri(viz.enlarge(picture, scale)),
        "stages": stage_data(picture, viz.layout_maps(tokens), look.paint, scale),
        "top": top,
        "random": loaded.source is None,
        "notes": [f"{note[0].upper()}{note[1:]}." for note in loaded.notes if note],
    }


def seen(loaded: Loaded, image: NDArray[np.uint8], look: Look) -> tuple[NDArray[np.uint8], Any]:
    """What the network sees: the picture for people, (h, w, 3) uint8, and its normalized batch."""
    prepare = loaded.preprocessing
    if look.view == "whole picture":
        hint = "choose another picture"
        size = seen_size(image.shape[:2], look.size, prepare.input_size, hint=hint)
        picture = resize_image(image, size)
        return picture, prepare.normalize(picture)
    batch = prepare(Image.fromarray(np.ascontiguousarray(image)))[None]
    spec = prepare.spec
    return unnormalize(batch[0], mean=spec.norm_mean, std=spec.norm_std), batch


def stage_data(
    picture: NDArray[np.uint8], maps: Sequence[NDArray[np.int64]], paint: Paint, scale: int
) -> list[dict[str, Any]]:
    """For each stage: the painted picture, the map, and size, color and fate of every token.

    Integers go as base64 of little-endian bytes: `map` (cells) and `into` (tokens) of 2 bytes,
    `cells` of 4, `colours` of 1 each for red, green and blue. `into` of the last stage is empty.
    """
    fills: list[Any] = ["none" if paint == "outlines" else "mean"] * len(maps)
    if "family" in paint:
        fills = list(viz.family_colors(list(maps), picture.shape[:2]))
    stages = []
    for stage, (cells, fill) in enumerate(zip(maps, fills, strict=True)):
        into = viz.parents(cells, maps[stage + 1]) if stage + 1 < len(maps) else np.empty(0)
        count = np.bincount(cells)
        stages.append(
            {
                "count": len(count),
                "painted": data_uri(viz.paint_tokens(picture, cells, fill=fill, scale=scale)),
                "map": _packed(cells, "<u2"),
                "cells": _packed(count, "<u4"),
                "colours": _packed(viz.mean_colors(picture, cells), "u1"),
                "into": _packed(into, "<u2"),
            }
        )
    return stages


def data_uri(picture: NDArray[np.uint8]) -> str:
    """An (H, W, 3) uint8 picture as a PNG inside an address."""
    # Fast rather than small: it travels a meter.
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture, fast=True)).decode()


def _packed(numbers: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers).astype(kind).tobytes()).decode()
