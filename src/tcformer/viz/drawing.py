"""One stage of one image, drawn one way: the same description makes pixels and SVG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcformer.partition import borders, outlines
from tcformer.viz.paint import WHITE, Colour, token_borders
from tcformer.viz.regions import Outliner, Size, on_pixels

BLACK: Colour = (0, 0, 0)


class Mark(NamedTuple):
    """A region with an outline of its own colour."""

    token: int
    colour: Colour


class Dot(NamedTuple):
    """A chosen point."""

    x: float
    y: float
    """in pixels of the picture, from its upper left corner"""
    colour: Colour


@dataclass(frozen=True)
class Drawing:
    """A picture, painted area by area, with the outlines of tokens over it.

    Attributes:
        image: (H, W, 3) uint8, the picture to draw on, of any resolution.
        seen: height and width of it as the network saw it.
        tokens: (H0, W0) int64, the token of each cell; these are outlined.
        colours: (N, 3) uint8, the paint of each area; none where the image is left as it is.
        opacity: (N,) int64, percent of the paint on the image, 0 to 100.
        areas: (H0, W0) int64, what paint goes by where that is not the token.
        outline: draw the borders between tokens.
        edge_colour: of the borders.
        width: pixels on each side of a border, a multiple of 0.5.
        marks: tokens that are outlined in a colour of their own.
        dots: points.
        names: what an area is called, by number: shown by SVG viewers under the mouse.
    """

    image: NDArray[np.uint8]
    seen: Size
    tokens: NDArray[np.int64]
    colours: NDArray[np.uint8] | None = None
    opacity: NDArray[np.int64] | None = None
    areas: NDArray[np.int64] | None = None
    outline: bool = True
    edge_colour: Colour = WHITE
    width: float = 1
    marks: tuple[Mark, ...] = ()
    dots: tuple[Dot, ...] = ()
    names: Callable[[int], str] = field(default=lambda area: f"token {area}")

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def _areas(self) -> NDArray[np.int64]:
        return self.tokens if self.areas is None else self.areas

    def _spread(self, values: NDArray[Any]) -> NDArray[Any]:
        return on_pixels(values, self.size, self.seen)

    # ---- pixels -----------------------------------------------------------------------------

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8; integer arithmetic, so the same on every machine."""
        picture = self._painted()
        tokens = self._spread(self.tokens.astype(np.int32))
        if self.outline:
            picture[token_borders(tokens, width=self.width)] = self.edge_colour
        for mark in self.marks:
            inside = tokens == mark.token
            # A dark line around the bright one: seen on any ground.
            dark = token_borders(inside, width=2 * self.width + 1)
            picture[dark] = BLACK
            picture[token_borders(inside, width=2 * self.width) & dark] = mark.colour
        for dot in self.dots:
            self._draw_dot(picture, dot)
        return picture

    def _painted(self) -> NDArray[np.uint8]:
        if self.colours is None:
            return self.image.copy()
        opacity = np.full(len(self.colours), 100) if self.opacity is None else self.opacity
        paint = self._spread(self.colours[self._areas])
        if (opacity == 100).all():
            return paint
        # Premixed for cells, so that one product and one sum are left for pixels.
        share = opacity[self._areas].astype(np.uint16)
        premixed = self.colours[self._areas] * share[..., None] + np.uint16(50)
        mixed = self.image * self._spread(np.uint16(100) - share)[..., None]
        mixed += self._spread(premixed)
        mixed //= np.uint16(100)
        return mixed.astype(np.uint8)

    def _ring(self) -> tuple[int, int]:
        """Radius of the ring around a point and half its thickness: a small token shows inside."""
        radius = max(4, min(self.size) // 36)
        return radius, max(1, radius // 6)

    def _draw_dot(self, picture: NDArray[np.uint8], dot: Dot) -> None:
        """A ring of the colour between two white ones, in a black one; whole pixels."""
        x, y = int(dot.x), int(dot.y)
        radius, half = self._ring()
        reach = radius + 3 * half
        top, left = max(0, y - reach), max(0, x - reach)
        window = picture[top : y + reach + 1, left : x + reach + 1]
        down, right = np.ogrid[: window.shape[0], : window.shape[1]]
        away = (down + top - y) ** 2 + (right + left - x) ** 2
        for outer, inner, colour in (
            (3 * half, 2 * half, BLACK),
            (2 * half, -2 * half, WHITE),
            (half, -half, dot.colour),
        ):
            far, near = radius + outer, radius + inner
            window[(away <= far**2 + far) & (away > near**2 + near)] = colour

    # ---- SVG --------------------------------------------------------------------------------

    def svg(self, image_id: str) -> str:
        """The drawing as SVG elements, in a coordinate system of pixels of the picture.

        Args:
            image_id: of an element that shows the picture, to be used where it is seen.
        """
        pen = Outliner(self.size, self.seen)
        parts = []
        opacity = np.zeros(0, np.int64) if self.opacity is None else self.opacity
        if self.colours is None or (opacity < 100).any():
            parts.append(f'<use href="#{image_id}"/>')
        elements = []
        for area, loops in outlines(self._areas).items():
            paint = "none"
            if self.colours is not None:
                percent = 100 if self.opacity is None else int(self.opacity[area])
                see = "" if percent == 100 else f' fill-opacity="{percent / 100:g}"'
                paint = f'{rgb(self.colours[area])}"{see} pointer-events="all'
            elements.append(
                f'<path fill="{paint}" d="{pen.polygons(loops)}">'
                f"<title>{self.names(area)}</title></path>"
            )
        # Without smoothing, no seams show between areas that touch.
        parts.append('<g class="areas" shape-rendering="crispEdges">' + "".join(elements) + "</g>")
        if self.outline:
            parts.append(
                f'<path class="borders" fill="none" stroke="{rgb(self.edge_colour)}" '
                f'stroke-width="{2 * self.width:g}" pointer-events="none" '
                f'd="{pen.lines(borders(self.tokens))}"/>'
            )
        for mark in self.marks:
            shape = pen.lines(borders((self.tokens == mark.token).astype(np.int64)))
            parts.extend(
                f'<path class="mark" fill="none" stroke="{rgb(colour)}" stroke-width="{thick:g}" '
                f'stroke-linecap="square" pointer-events="none" d="{shape}"/>'
                for colour, thick in (
                    (BLACK, 4 * self.width + 2),
                    (mark.colour, 4 * self.width),
                )
            )
        radius, half = self._ring()
        for dot in self.dots:
            place = f'<circle cx="{dot.x:g}" cy="{dot.y:g}" fill="none" pointer-events="none"'
            parts.extend(
                f'{place} r="{radius + away * half:g}" stroke="{colour}" '
                f'stroke-width="{thick * half:g}"/>'
                for away, thick, colour in (
                    (2.5, 1, "black"),
                    (0, 4, "white"),
                    (0, 2, rgb(dot.colour)),
                )
            )
        return "\n".join(parts)


def rgb(colour: Any) -> str:
    """#rrggbb from three numbers."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)
