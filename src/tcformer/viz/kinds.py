"""The ways to draw the tokens of one image: each gives a row of panels, one for every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.viz.drawing import Dot, Drawing, Mark
from tcformer.viz.heat import Scale, heat_colours, number
from tcformer.viz.images import as_array, as_rgb
from tcformer.viz.paint import (
    WHITE,
    CellSums,
    Colour,
    cell_sums,
    family_colours,
    mean_colours,
    palette_colours,
)
from tcformer.viz.regions import Size, cell_grid, token_at
from tcformer.viz.sheet import Panel, Row
from tcformer.viz.tracking import contributions, parents

KINDS = {
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

DIM: Colour = (24, 24, 24)
DIM_EDGE: Colour = (110, 110, 110)
"""Of what is not meant, and of the borders there."""

BRIGHT = 170
DARK_EDGE: Colour = (48, 48, 48)
"""Mean from which an image is so bright that white borders would not be seen, and their colour."""

POINT_COLOURS: tuple[Colour, ...] = (
    (255, 59, 48),
    (52, 220, 90),
    (64, 140, 255),
    (255, 204, 0),
    (255, 90, 220),
    (0, 220, 230),
)
"""Of chosen points: as in the paper red, green, blue; then others."""


Point = tuple[float, float]
"""(x, y) in pixels, from the upper left corner."""


@dataclass(frozen=True)
class Look:
    """How to draw.

    Attributes:
        outline: draw the borders between tokens.
        opacity: percent of the paint on the image; None for what suits the kind.
        edge_colour: of the borders; None for white, or dark where the image is bright.
        width: pixels on each side of a border; None for what suits the size of a cell.
    """

    outline: bool = True
    opacity: int | None = None
    edge_colour: Colour | None = None
    width: float | None = None


class Subject:
    """One image with its tokens: what all drawings of it are made from.

    Args:
        image: (H, W, 3) uint8, the picture to draw on, of any resolution; array or tensor.
        cell_maps: the maps of the image, one for each stage (`layout_maps`).
        seen: height and width of the image as the network saw it; by default the same.
        weights: for each stage (H0*W0,) float, ``layout.cell_weight[b]``; for `weights`.
        scores: for each merge (N,) float, the importance of the tokens before it.
        points_in: height and width of the picture that points are given in pixels of; by default
            the image itself. Useful where a photograph was made smaller to be drawn on.
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
        look: Look | None = None,
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
        self.look = Look() if look is None else look

    @cached_property
    def _sums(self) -> CellSums:
        return cell_sums(self.image, self.seen)

    # ---- all tokens -------------------------------------------------------------------------

    def draw(
        self, kind: str, *, family_stage: int | None = None, points: Sequence[Point] = ()
    ) -> Row:
        """A row of panels, one for every stage; none for the last by importance.

        Args:
            kind: mean, none, palette, family, size or importance (see `KINDS`).
            family_stage: the stage whose tokens have a colour each, for ``family``; by default
                the last.
            points: (x, y), marked in every panel.

        Raises:
            UserError: another kind, or scores are missing.
        """
        panels, dots = [], self.dots(points)
        if kind == "family":
            colours = family_colours(self.maps, self.seen, stage=family_stage)
        elif kind == "importance" and not self.scores:
            raise UserError("scores are missing: importance is known to the merges of a network")
        elif kind not in ("mean", "none", "palette", "size", "importance"):
            raise UserError(f"there is no drawing {kind!r}: choose one of {', '.join(KINDS)}")
        for stage, cells in enumerate(self.maps, start=1):
            paint: NDArray[np.uint8] | None = None
            scale, values = None, None
            if kind == "mean":
                paint = mean_colours(self.image, cells, seen=self.seen, sums=self._sums)
            elif kind == "palette":
                paint = palette_colours(cells, self.seen)
            elif kind == "family":
                paint = colours[stage - 1]
            elif kind == "size":
                values = np.bincount(cells.ravel()).astype(np.float64)
                # Bright means small: what is seen there, is seen in detail.
                largest = values.max()
                paint = heat_colours(-np.log2(np.maximum(values, 1)), low=-np.log2(largest), high=0)
                scale = Scale(_counted(int(largest), "cell"), "1")
            elif kind == "importance":
                if stage > len(self.scores or ()):
                    continue  # no merge follows on the last stage
                values = as_array(self.scores[stage - 1]).astype(np.float64)  # type: ignore[index]
                paint = heat_colours(values)
                scale = Scale(number(float(values.min())), number(float(values.max())))
            panels.append(self._panel(kind, stage, paint, scale, values, dots))
        return Row(tuple(panels), KINDS[kind])

    # ---- the token at a point ---------------------------------------------------------------

    def tokens_at(self, point: Point) -> list[int]:
        """For each stage the token that covers a point."""
        return [token_at(cells, point, self.points_in, seen=self.seen) for cells in self.maps]

    def draw_regions(self, points: Sequence[Point]) -> Row:
        """A row with the tokens at one or more points: bright in colour, all others dimmed."""
        panels = []
        followed = [self.tokens_at(point) for point in points]
        for stage, cells in enumerate(self.maps, start=1):
            names = [tokens[stage - 1] for tokens in followed]
            length = int(cells.max()) + 1
            colours = np.full((length, 3), DIM, np.uint8)
            opacity = np.full(length, 72, np.int64)
            marks = []
            for place, token in reversed(list(enumerate(names))):
                colour = POINT_COLOURS[place % len(POINT_COLOURS)]
                colours[token], opacity[token] = colour, 28
                marks.append(Mark(token, colour))
            if len(points) == 1:
                covered = int((cells == names[0]).sum())
                caption = f"stage {stage}: {_counted(covered, 'cell')} of {cells.size}"
            else:
                caption = _stage_caption(stage, cells)
            drawing = self._drawing(cells, colours, opacity, marks, self.dots(points), dimmed=True)
            panels.append(Panel(drawing, caption))
        return Row(tuple(panels), KINDS["region"])

    def draw_contributions(
        self, point: Point, *, stage: int | None = None, colour: Colour = POINT_COLOURS[0]
    ) -> Row:
        """A row that shows how much each token contributes to one later token.

        Args:
            point: where that token lies.
            colour: of the point and of the token.
            stage: the stage of the later token, from 2; by default the last.

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
            colours = heat_colours(np.where(inside, share, 0), low=0, high=top)
            if before == stage:
                colours[token] = colour
            opacity = np.where(inside, self._opacity("weights"), 72)
            colours[~inside] = DIM
            marks = [Mark(token, colour)] if before == stage else []
            dots = self.dots([point], [colour])
            drawing = self._drawing(cells, colours, opacity, marks, dots, dimmed=True)
            caption = f"stage {before}: {_counted(int(inside.sum()), 'token')}"
            scale = Scale("0", _percent(top)) if before < stage else None
            panels.append(Panel(drawing, caption, scale))
        return Row(tuple(panels), KINDS["weights"])

    def draw_attention(
        self,
        point: Point,
        cell_to_key: Sequence[Any],
        weights: Sequence[Any],
        *,
        captions: Sequence[str] | None = None,
        colour: Colour = POINT_COLOURS[0],
    ) -> Row:
        """A row that shows what the token at a point looks at, in every stage.

        Args:
            point: where the token lies.
            cell_to_key: for each stage (H0*W0,) integers, the key that stands for each cell; -1
                for none.
            weights: for each stage (K,) float, the attention of the token at the point.
            captions: of the panels; the number of keys where left out.
            colour: of the point and of the token.
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
            colours = heat_colours(np.append(weight, low), low=low, high=high)
            opacity = np.append(np.full(len(weight), self._opacity("attention")), 0)
            drawing = self._drawing(
                cells,
                colours,
                opacity,
                [Mark(tokens[stage - 1], colour)],
                self.dots([point], [colour]),
                areas=areas,
                names=_Names([_percent(value) for value in weight] + ["no key"], "attention "),
                outline=False,
            )
            caption = captions[stage - 1] if captions else _counted(len(weight), "key")
            scale = Scale(_percent(low), _percent(high))
            panels.append(Panel(drawing, f"stage {stage}: {caption}", scale))
        return Row(tuple(panels), KINDS["attention"])

    def plain(
        self, points: Sequence[Point] = (), colours: Sequence[Colour] = POINT_COLOURS
    ) -> Drawing:
        """The image itself, with points marked."""
        dots = self.dots(points, colours)
        return self._drawing(self.maps[-1], None, None, (), dots, outline=False)

    # ---- panels -----------------------------------------------------------------------------

    def _opacity(self, kind: str) -> int:
        return OPACITY[kind] if self.look.opacity is None else self.look.opacity

    def dots(
        self, points: Sequence[Point], colours: Sequence[Colour] = POINT_COLOURS
    ) -> tuple[Dot, ...]:
        """Marks for points, in the colours of `POINT_COLOURS`."""
        (height, width), (high, wide) = self.size, self.points_in
        return tuple(
            Dot((x + 0.5) * width / wide, (y + 0.5) * height / high, colours[place % len(colours)])
            for place, (x, y) in enumerate(points)
        )

    def _width(self, cells: NDArray[np.int64]) -> float:
        """Thin enough for small tokens, thick enough for large pictures."""
        if self.look.width is not None:
            return self.look.width
        cell = min(self.size[0] / cells.shape[0], self.size[1] / cells.shape[1])
        alone = np.unique(cells).size == cells.size
        return max(1 if alone or cell < 6 else 2, round(cell / 8)) / 2

    @cached_property
    def _edge(self) -> Colour:
        if self.look.edge_colour is not None:
            return self.look.edge_colour
        # The mean over every 16th pixel of rows and columns tells bright pictures as well.
        return DARK_EDGE if self.image[::16, ::16].mean() >= BRIGHT else WHITE

    def _drawing(
        self,
        cells: NDArray[np.int64],
        colours: NDArray[np.uint8] | None,
        opacity: NDArray[np.int64] | None,
        marks: Sequence[Mark] = (),
        dots: tuple[Dot, ...] = (),
        *,
        areas: NDArray[np.int64] | None = None,
        names: Any = None,
        outline: bool = True,
        dimmed: bool = False,
    ) -> Drawing:
        return Drawing(
            self.image,
            self.seen,
            cells,
            colours,
            opacity,
            areas,
            outline and self.look.outline,
            DIM_EDGE if dimmed and self.look.edge_colour is None else self._edge,
            self._width(cells),
            tuple(marks),
            dots,
            names or _Names([_counted(int(n), "cell") for n in np.bincount(cells.ravel())]),
        )

    def _panel(
        self,
        kind: str,
        stage: int,
        paint: NDArray[np.uint8] | None,
        scale: Scale | None,
        values: NDArray[np.float64] | None,
        dots: tuple[Dot, ...],
    ) -> Panel:
        cells = self.maps[stage - 1]
        opacity = None if paint is None else np.full(len(paint), self._opacity(kind), np.int64)
        names = None
        if kind == "importance" and values is not None:
            names = _Names([f"importance {number(float(value))}" for value in values])
        drawing = self._drawing(cells, paint, opacity, (), dots, names=names)
        return Panel(drawing, _stage_caption(stage, cells), scale)


class _Names:
    """What areas are called: "token 3: 12 cells"."""

    def __init__(self, words: Sequence[str], before: str = "") -> None:
        self.words, self.before = words, before

    def __call__(self, area: int) -> str:
        return (
            self.before + self.words[area] if self.before else f"token {area}: {self.words[area]}"
        )


def _stage_caption(stage: int, cells: NDArray[np.int64]) -> str:
    return f"stage {stage}: {_counted(len(np.unique(cells)), 'token')}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _percent(share: float) -> str:
    return f"{number(float(f'{100 * share:.2g}'))} %"
