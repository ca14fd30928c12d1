"""What `tcformer show` does once it knows what is asked for: run the network, draw, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tcformer.cli.show import MOVING, check_seen, seen_size
from tcformer.errors import UserError
from tcformer.models.trace import Trace, trace
from tcformer.predict import Loaded
from tcformer.viz import (
    KINDS,
    POINT_COLOURS,
    Look,
    Panel,
    Point,
    Row,
    Subject,
    layout_maps,
    panel_picture,
    panel_shape,
    resize_image,
    with_image,
    write_moving,
    write_sheet,
)
from tcformer.viz.moving import MOST_PIXELS as MOST_OF_A_FRAME
from tcformer.viz.sheet import MOST_PIXELS as MOST_OF_A_SHEET

SHORT_SIDE = 224


@dataclass(frozen=True)
class Request:
    """What to draw, checked; the names are those of the options."""

    kinds: tuple[str, ...]
    points: tuple[Point, ...]
    stage: int | None
    block: int | None
    head: int | None
    panel_size: int | None
    look: Look
    seconds: float
    size: int | str | None = None


def draw_images(
    loaded: Loaded,
    paths: Sequence[Path],
    images: Sequence[NDArray[np.uint8]],
    request: Request,
    out: Path,
) -> Iterator[str]:
    """Draw all images into one file; yields a line about each.

    Raises:
        UserError: a stage, block or head that the model does not have; an image too large.
    """
    _check_model(loaded, request)
    default = loaded.preprocessing.input_size if loaded.source else SHORT_SIDE
    sizes = []
    for path, image in zip(paths, images, strict=True):
        original = image.shape[0], image.shape[1]
        sizes.append(seen_size(original, request.size, default))
        check_seen(path, original, sizes[-1])
    moving = out.suffix.lower().removeprefix(".") in MOVING
    _check_extent(images, sizes, request, moving)
    rows_of_images = []
    for path, image, seen in zip(paths, images, sizes, strict=True):
        traced = trace(
            loaded.backbone,
            loaded.preprocessing.normalise(resize_image(image, seen)).to(loaded.device),
            block=request.block,
        )
        counts = ", ".join(str(tokens.layout.num_tokens) for tokens in traced.stages)
        height, width = image.shape[:2]
        yield f"{path}: {height} x {width} px, seen as {seen[0]} x {seen[1]}, {counts} tokens"
        rows = _rows(traced, image, seen, request, path.name)
        about = f"{path.name}: {width} x {height} px, seen by {_called(loaded)} at " + (
            f"{seen[1]} x {seen[0]} px"
        )
        rows[0] = rows[0]._replace(heading=f"{about}\n{rows[0].heading}")
        rows_of_images.append(rows)
    if moving:
        write_moving(out, _merging(rows_of_images), seconds=request.seconds)
    else:
        write_sheet(out, [row for rows in rows_of_images for row in rows])


def _check_extent(
    images: Sequence[NDArray[np.uint8]],
    sizes: Sequence[tuple[int, int]],
    request: Request,
    moving: bool,
) -> None:
    """Refuse a picture that is too large for programs and memory, before anything is drawn."""
    of_points = sum(kind in ("attention", "weights") for kind in request.kinds)
    rows = len(request.kinds) + of_points * (max(1, len(request.points)) - 1)
    area = 0
    for image, seen in zip(images, sizes, strict=True):
        height, width = panel_shape((image.shape[0], image.shape[1]), seen, request.panel_size)
        area += height * width * rows * (1 if moving else 5)
    most = MOST_OF_A_FRAME if moving else MOST_OF_A_SHEET
    if area > most:
        raise UserError(
            f"the picture would have {area / 1e6:.0f} million pixels, and {most / 1e6:.0f} is what "
            "programs can open: give fewer images or drawings, or a smaller --panel-size"
        )


def _called(loaded: Loaded) -> str:
    if loaded.source is None:
        return f"{loaded.name} (random weights)"
    return f"{loaded.name} ({Path(loaded.source).name})"


def _check_model(loaded: Loaded, request: Request) -> None:
    stages = len(loaded.backbone.depths)
    if request.stage is not None and request.stage > stages:
        raise UserError(f"--stage {request.stage}: {loaded.name} has {stages} stages")
    if request.stage == 1 and "weights" in request.kinds:
        raise UserError("--stage 1: the first tokens are merged from none; weights need 2 or more")
    heads = [
        getattr(loaded.backbone, f"block{stage}")[0].attn.num_heads
        for stage in range(1, stages + 1)
    ]
    for option, value, there in (
        ("block", request.block, loaded.backbone.depths),
        ("head", request.head, heads),
    ):
        if value is not None and value > max(there):
            counts = ", ".join(map(str, there))
            raise UserError(
                f"--{option} {value}: the stages of {loaded.name} have {counts} {option}s"
            )


def _rows(
    traced: Trace,
    image: NDArray[np.uint8],
    seen: tuple[int, int],
    request: Request,
    title: str,
) -> list[Row]:
    """All rows of one image."""
    subject = Subject(
        panel_picture(image, seen, request.panel_size),
        layout_maps(traced.stages),
        seen=seen,
        weights=[tokens.layout.cell_weight[0] for tokens in traced.stages],
        scores=[score[0] for score in traced.scores],
        points_in=(image.shape[0], image.shape[1]),
        look=request.look,
    )
    rows = []
    for kind in request.kinds:
        if kind == "region":
            row = subject.draw_regions(request.points)
            rows.append(with_image(row, subject, title, request.points))
        elif kind in ("attention", "weights"):
            for place, point in enumerate(request.points):
                colour = POINT_COLOURS[place]
                if kind == "weights":
                    row = subject.draw_contributions(point, stage=request.stage, colour=colour)
                else:
                    row = _attention(traced, subject, point, request, colour)
                row = row._replace(heading=f"{row.heading} ({point[0]:g}, {point[1]:g})")
                rows.append(with_image(row, subject, title, [point], [colour]))
        else:
            row = subject.draw(kind, family_stage=request.stage, points=request.points)
            rows.append(with_image(row, subject, title, request.points))
    return rows


def _attention(
    traced: Trace, subject: Subject, point: Point, request: Request, colour: tuple[int, int, int]
) -> Row:
    weights, captions = [], []
    tokens = subject.tokens_at(point)
    for attended, token in zip(traced.attended, tokens, strict=True):
        heads = attended.layer.num_heads
        head = None if request.head is None else min(request.head, heads)
        weights.append(attended.weights(token, head=head))
        captions.append(f"{len(weights[-1])} {attended.over}")
    row = subject.draw_attention(
        point,
        [attended.cell_to_key[0] for attended in traced.attended],
        weights,
        captions=captions,
        colour=colour,
    )
    which = "last block of each stage"
    if request.block is not None:
        which = "block " + ", ".join(map(str, traced.blocks)) + " of the stages"
    heads_of = [min(request.head or 0, a.layer.num_heads) for a in traced.attended]
    of = "mean of all heads" if request.head is None else f"head {', '.join(map(str, heads_of))}"
    return row._replace(heading=f"{KINDS['attention']}: {which}, {of};")


def _merging(rows_of_images: list[list[Row]]) -> list[list[Row]]:
    """The sheets of a moving picture: the images, then their tokens stage by stage.

    A drawing that has fewer stages than others stands still at its last one.
    """
    stages = max(len(row.panels) for rows in rows_of_images for row in rows)
    sheets = []
    for stage in range(stages):
        shown = [
            Row(tuple(row.panels[min(stage, len(row.panels) - 1)] for row in rows))
            for rows in rows_of_images
        ]
        if all(len(row.panels) == 1 for row in shown):
            # One drawing of each image: images stand in a block, not in one long column.
            panels: list[Panel] = [row.panels[0] for row in shown]
            across = ceil(sqrt(len(panels)))
            shown = [
                Row(tuple(panels[start : start + across]))
                for start in range(0, len(panels), across)
            ]
        sheets.append(shown)
    return sheets
