"""The ways to draw the tokens of one image: each gives a row of panels, one for every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.images import as_array, as_rgb, png_bytes, resize_image
from tcformer.viz.paint import (
    WHITE,
    Color,
    Dot,
    Drawing,
    Overlay,
    cell_sums,
    enlarge,
    family_colors,
    heat_colors,
    mean_colors,
    palette_colors,
)
from tcformer.viz.regions import Size, cell_grid, token_at
from tcformer.viz.sheet import Panel, Row, Scale, contact_sheet, panel_scale, write_sheet
from tcformer.viz.tracking import contributions, layout_maps, parents

STYLES = {
    "mean": "each token in the mean colour of its pixels",
    "none": "the outlines of the tokens",
    "palette": "each token in a colour of its own",
    "family": "a token and all that merged into it share a colour",
    "size": "tokens by their number of cells: bright tokens are small",
    "importance": "the score by which a token counts when it is merged",
    "region": "the token at the chosen point, stage by stage",
    "attention": "what the token at the chosen point looks at",
    "weights": "how much each token contributes to the last one at the chosen point",
}
"""What can be drawn, and the words above it."""

OPACITY = {"mean": 100, "none": 0, "palette": 100, "family": 62, "size": 78, "importance": 78}
OPACITY |= {"region": 100, "attention": 72, "weights": 78}
"""Percent of paint on the image where nothing else is asked for."""

DIM: Color = (24, 24, 24)
DIM_EDGE: Color = (110, 110, 110)
"""Of what is not meant, and of the borders there."""

BRIGHT = 170
DARK_EDGE: Color = (48, 48, 48)
"""Mean from which an image is so bright that white borders would not be seen, and their color."""

POINT_COLORS: tuple[Color, ...] = (
    *((255, 59, 48), (52, 220, 90), (64, 140, 255)),
    *((255, 204, 0), (255, 90, 220), (0, 220, 230)),
)
"""Of chosen points: as in the paper red, green, blue; then others."""

Point = tuple[float, float]
"""(x, y) in pixels, from the upper left corner."""


@dataclass(frozen=True)
class Style:
    """How to draw; None for what suits."""

    outline: bool = True  # draw the borders between tokens
    opacity: int | None = None  # percent of the paint on the image
    edge_color: Color | None = None  # of the borders
    width: float | None = None  # pixels on each side of a border


class Figure:
    """One image with its tokens: what all drawings of it are made from.

    Args:
        image: (H, W, 3) uint8, the image to draw on, of any resolution; array or tensor.
        cell_maps: the maps of the image, one for each stage (`layout_maps`).
        seen: height and width of the image as the network saw it; by default the same.
        weights: for each stage (H0*W0,) float, ``layout.cell_weight[b]``; for `weights`.
        scores: for each merge (N,) float, the importance of the tokens before it.
        points_in: height and width of the image whose pixels points are given in, where `image`
            is another size of it.
        look: how to draw.

    Raises:
        UserError: maps, weights or scores that do not belong to the image.
    """

    def __init__(
        self,
        image: Any,
        cell_maps: Sequence[Any],
        *,
        seen: Size | None = None,
        weights: Sequence[Any] | None = None,
        scores: Sequence[Any] | None = None,
        points_in: Size | None = None,
        look: Style | None = None,
    ) -> None:
        self.image = np.ascontiguousarray(as_rgb(image))
        self.size: Size = self.image.shape[0], self.image.shape[1]
        self.seen = self.size if seen is None else seen
        if not cell_maps:
            raise UserError("there is no stage to draw: give one map or more")
        self.maps = [cell_grid(cells, self.seen) for cells in cell_maps]
        self.weights = weights
        self.scores = scores
        self.points_in = self.size if points_in is None else points_in
        self.look = Style() if look is None else look

    # ---- all tokens -------------------------------------------------------------------------

    def draw(
        self, kind: str, *, family_stage: int | None = None, points: Sequence[Point] = ()
    ) -> Row:
        """A row of panels, one for every stage; none for the last by importance.

        `kind` is mean, none, palette, family, size or importance (see `STYLES`). For ``family``
        the tokens of one stage, by default the last, have a color each. Every panel marks `points`.

        Raises:
            UserError: another kind, or scores are missing.
        """
        if kind not in ("mean", "none", "palette", "family", "size", "importance"):
            raise UserError(f"there is no drawing {kind!r}: choose one of {', '.join(STYLES)}")
        if kind == "importance" and not self.scores:
            raise UserError("scores are missing: importance is known to the merges of a network")
        families: list[NDArray[np.uint8]] = []
        if kind == "family":
            families = family_colors(self.maps, self.seen, stage=family_stage)
        # No merge follows on the last stage, so its tokens have no importance.
        shown = self.maps if kind != "importance" else self.maps[: len(self.scores or ())]
        panels, sums = [], cell_sums(self.image, self.seen) if kind == "mean" else None
        for stage, cells in enumerate(shown, start=1):
            paint: NDArray[np.uint8] | None = None
            scale, names = None, None
            if kind == "mean":
                paint = mean_colors(self.image, cells, seen=self.seen, sums=sums)
            elif kind == "palette":
                paint = palette_colors(cells, self.seen)
            elif kind == "family":
                paint = families[stage - 1]
            elif kind == "size":
                count = np.bincount(cells.ravel())
                # Bright means small: what is seen there, is seen in detail.
                small = -np.log2(np.maximum(count, 1))
                paint = heat_colors(small, low=small.min(), high=0)
                scale = Scale(_counted(int(count.max()), "cell"), "1")
            elif kind == "importance":
                values = as_array(self.scores[stage - 1]).astype(np.float64)  # type: ignore[index]
                paint = heat_colors(values)
                scale = Scale(number(float(values.min())), number(float(values.max())))
                names = [f"importance {number(float(value))}" for value in values]
            opacity = None if paint is None else np.full(len(paint), self._opacity(kind))
            drawing = self._drawing(cells, paint, opacity, points=points, names=names)
            panels.append(Panel(drawing, _stage_caption(stage, cells), scale))
        return Row(tuple(panels), STYLES[kind])

    # ---- the token at a point ---------------------------------------------------------------

    def tokens_at(self, point: Point) -> list[int]:
        """For each stage the token that covers a point."""
        return [token_at(cells, point, self.points_in, seen=self.seen) for cells in self.maps]

    def draw_regions(self, points: Sequence[Point]) -> Row:
        """A row with the tokens at one or more points: bright in color, all others dimmed."""
        panels = []
        followed = [self.tokens_at(point) for point in points]
        for stage, cells in enumerate(self.maps, start=1):
            length = int(cells.max()) + 1
            colors, opacity = np.full((length, 3), DIM, np.uint8), np.full(length, 72)
            overlays = []
            for place, tokens in reversed(list(enumerate(followed))):
                token, color = tokens[stage - 1], POINT_COLORS[place % len(POINT_COLORS)]
                colors[token], opacity[token] = color, 28
                overlays.append(Overlay(token, color))
            caption = _stage_caption(stage, cells)
            if len(points) == 1:
                covered = int((cells == overlays[0].token).sum())
                caption = f"stage {stage}: {_counted(covered, 'cell')} of {cells.size}"
            drawing = self._drawing(cells, colors, opacity, overlays, points, dimmed=True)
            panels.append(Panel(drawing, caption))
        return Row(tuple(panels), STYLES["region"])

    def draw_contributions(
        self, point: Point, *, stage: int | None = None, color: Color = POINT_COLORS[0]
    ) -> Row:
        """A row that shows how much each token contributes to the token at a point.

        It is a token of `stage`, from 2, by default of the last.

        Raises:
            UserError: no such stage, or weights are missing.
        """
        stage = len(self.maps) if stage is None else stage
        if not 2 <= stage <= len(self.maps):
            raise UserError(
                f"stage {stage} has no tokens before it to be made of: give 2 to {len(self.maps)}"
            )
        if self.weights is None:
            raise UserError("weights are missing: give layout.cell_weight of every stage")
        target, panels = self.maps[stage - 1], []
        token = self.tokens_at(point)[stage - 1]
        for before, cells in enumerate(self.maps[:stage], start=1):
            share = contributions(cells, target, self.weights[stage - 1])
            inside = parents(cells, target) == token
            top = 1.0 if before == stage else float(share[inside].max())
            colors = heat_colors(np.where(inside, share, 0), low=0, high=top)
            if before == stage:
                colors[token] = color
            opacity = np.where(inside, self._opacity("weights"), 72)
            colors[~inside] = DIM
            overlays = [Overlay(token, color)] if before == stage else []
            drawing = self._drawing(cells, colors, opacity, overlays, [point], [color], dimmed=True)
            caption = f"stage {before}: {_counted(int(inside.sum()), 'token')}"
            scale = Scale("0", _percent(top)) if before < stage else None
            panels.append(Panel(drawing, caption, scale))
        return Row(tuple(panels), STYLES["weights"])

    def draw_attention(
        self,
        point: Point,
        cell_to_key: Sequence[Any],
        weights: Sequence[Any],
        *,
        captions: Sequence[str] | None = None,
        color: Color = POINT_COLORS[0],
    ) -> Row:
        """A row that shows what the token at a point looks at, in every stage.

        `cell_to_key` holds for each stage (H0*W0,) integers, the key that stands for each cell, -1
        for none; `weights` (K,) float, the attention of the token at the point. Captions tell the
        number of keys by default.
        """
        tokens, panels = self.tokens_at(point), []
        for stage, (cells, keys, weight) in enumerate(
            zip(self.maps, cell_to_key, weights, strict=True), start=1
        ):
            weight = as_array(weight).astype(np.float64)
            areas = as_array(keys).reshape(cells.shape).astype(np.int64)
            low, high = float(weight.min()), float(weight.max())
            # A key more, for cells that none stands for: left as they are.
            areas = np.where(areas < 0, len(weight), areas)
            colors = heat_colors(np.append(weight, low), low=low, high=high)
            opacity = np.append(np.full(len(weight), self._opacity("attention")), 0)
            overlays = [Overlay(tokens[stage - 1], color)]
            names = [*(f"attention {_percent(value)}" for value in weight), "attention no key"]
            drawing = replace(
                self._drawing(cells, colors, opacity, overlays, [point], [color]),
                areas=areas,
                outline=False,
                names=names.__getitem__,
            )
            caption = captions[stage - 1] if captions else _counted(len(weight), "key")
            scale = Scale(_percent(low), _percent(high))
            panels.append(Panel(drawing, f"stage {stage}: {caption}", scale))
        return Row(tuple(panels), STYLES["attention"])

    def plain(
        self, points: Sequence[Point] = (), colors: Sequence[Color] = POINT_COLORS
    ) -> Drawing:
        """The image itself, with points marked."""
        drawing = self._drawing(self.maps[-1], points=points, point_colors=colors)
        return replace(drawing, outline=False)

    # ---- panels -----------------------------------------------------------------------------

    def _opacity(self, kind: str) -> int:
        return OPACITY[kind] if self.look.opacity is None else self.look.opacity

    def _width(self, cells: NDArray[np.int64]) -> float:
        """Thin enough for small tokens, thick enough for large pictures."""
        if self.look.width is not None:
            return self.look.width
        cell = min(self.size[0] / cells.shape[0], self.size[1] / cells.shape[1])
        alone = np.unique(cells).size == cells.size
        return max(1 if alone or cell < 6 else 2, round(cell / 8)) / 2

    @cached_property
    def _edge(self) -> Color:
        # The mean over every 16th pixel of rows and columns tells bright images as well.
        return DARK_EDGE if self.image[::16, ::16].mean() >= BRIGHT else WHITE

    def _drawing(
        self,
        cells: NDArray[np.int64],
        colors: NDArray[np.uint8] | None = None,
        opacity: NDArray[np.int64] | None = None,
        overlays: Sequence[Overlay] = (),
        points: Sequence[Point] = (),
        point_colors: Sequence[Color] = POINT_COLORS,
        *,
        names: Sequence[str] | None = None,
        dimmed: bool = False,
    ) -> Drawing:
        told = names or [_counted(int(n), "cell") for n in np.bincount(cells.ravel())]
        (height, width), (high, wide) = self.size, self.points_in
        dots = (
            Dot((x + 0.5) * width / wide, (y + 0.5) * height / high, color)
            for (x, y), color in zip(points, cycle(point_colors), strict=False)
        )
        return Drawing(
            self.image,
            self.seen,
            cells,
            colors,
            opacity,
            outline=self.look.outline,
            edge_color=self.look.edge_color or (DIM_EDGE if dimmed else self._edge),
            width=self._width(cells),
            overlays=tuple(overlays),
            dots=tuple(dots),
            names=lambda token: f"token {token}: {told[token]}",
        )


def _stage_caption(stage: int, cells: NDArray[np.int64]) -> str:
    return f"stage {stage}: {_counted(len(np.unique(cells)), 'token')}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def number(value: float) -> str:
    """A number for people: three digits that matter at most."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{number(float(f'{100 * share:.2g}'))} %"


# ---- in one call, for notebooks -------------------------------------------------------------


class Picture:
    """Rows of panels; a notebook shows them as the last value of a cell, no IPython needed."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8."""
        return contact_sheet(self.rows)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.pixels)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as .png or .svg."""
        write_sheet(path, self.rows)


def draw_tokens(
    image: Any,
    stages: Sequence[Any],
    *,
    index: int = 0,
    kinds: Sequence[str] = ("mean",),
    points: Sequence[Point] = (),
    seen: Size | None = None,
    title: str = "image",
    panel_size: int = 448,
    look: Style | None = None,
) -> Picture:
    """Draw one image and its tokens: in a notebook, the one call that shows everything.

    Args:
        image: (H, W, 3) uint8, the image, of any resolution; array or tensor.
        stages: what ``model.forward_tokens(batch)`` returns.
        index: which image of the batch.
        kinds: rows to draw: mean, none, palette, family, size; with points also region, weights.
        points: (x, y) in pixels of the image.
        seen: height and width of the image in the batch, where that is another size.
        title: what stands below the image.
        panel_size: length of a panel's longer side in pixels, about.
        look: outlines, opacity.

    Raises:
        UserError: tokens that do not belong to the image, or something that cannot be drawn.
    """
    pixels = as_rgb(image)
    size = pixels.shape[0], pixels.shape[1]
    seen = size if seen is None else seen
    figure = Figure(
        panel_picture(pixels, seen, panel_size),
        layout_maps(stages, index),
        seen=seen,
        weights=[getattr(tokens, "layout", tokens).cell_weight[index] for tokens in stages],
        points_in=size,
        look=look,
    )
    rows: list[Row] = []
    for kind in kinds:
        if kind == "region" and points:
            rows.append(figure.draw_regions(points))
        elif kind == "weights" and points:
            rows += [figure.draw_contributions(point) for point in points]
        else:
            rows.append(figure.draw(kind, points=points))
    return Picture([with_image(row, figure, title, points) for row in rows])


def token_row(
    image: Any,
    cell_maps: Sequence[Any],
    *,
    title: str = "image",
    fill: str = "mean",
    panel_size: int = 448,
    outline: bool = True,
    edge_color: Color = WHITE,
    width: float = 1,
) -> Row:
    """The image and, to its right, the same image painted by the tokens of each stage.

    The image is (H, W, 3) uint8 as the network saw it, the maps are those of `layout_maps`. `fill`
    is a kind of `Figure.draw`; outlines are those of `paint_tokens`. A panel's longer side has
    about `panel_size` pixels: images are enlarged by a whole factor, 2 or more.
    """
    pixels = as_rgb(image)
    seen: Size = pixels.shape[0], pixels.shape[1]
    look = Style(outline, 100 if fill != "none" else None, edge_color, width)
    figure = Figure(enlarge(pixels, panel_scale(seen, panel_size)), cell_maps, seen=seen, look=look)
    return with_image(figure.draw(fill), figure, title)._replace(heading="")


def with_image(
    row: Row,
    figure: Figure,
    title: str,
    points: Sequence[Point] = (),
    colors: Sequence[Color] = POINT_COLORS,
) -> Row:
    """The row with the image itself, points marked, in front."""
    return row._replace(panels=(Panel(figure.plain(points, colors), title), *row.panels))


def panel_picture(image: Any, seen: Size, panel_size: int | None) -> NDArray[np.uint8]:
    """The image in the size to draw it: a whole multiple of what the network saw, so that all
    cells are equal.

    Its longer side has about `panel_size` pixels; None leaves the image as it is.
    """
    pixels = as_rgb(image)
    size = panel_shape((pixels.shape[0], pixels.shape[1]), seen, panel_size)
    if pixels.shape[:2] == tuple(seen) and panel_size is not None:
        # There is no more detail; the network's own pixels show.
        return enlarge(pixels, size[0] // seen[0])
    return resize_image(pixels, size)


def panel_shape(size: Size, seen: Size, panel_size: int | None) -> Size:
    """Height and width of what `panel_picture` makes of an image of this size."""
    if panel_size is None:
        return size
    scale = panel_scale(seen, panel_size)
    return seen[0] * scale, seen[1] * scale
