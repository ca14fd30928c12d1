"""Drawn pictures: nobody's photographs, the same on every machine, and for ever.

What is recorded of networks was measured on some of them, so their pixels must not change.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

SIDE = 224
FINER = 4
"""Pictures are drawn this many times larger and averaged, which smooths their edges."""

NUM_SCENES = 4
NUM_EVEN = 3

SENSOR_NOISE = 2.0
"""Standard deviation in units of 1/255: exactly equal pixels are rare in photographs."""

SHAPES = 14
TEXTURES = (0.0, 0.0, 6.0, 20.0, 45.0)

Size = tuple[int, int]
"""Height and width in pixels."""


def _smooth(
    values: NDArray[np.floating], size: Size, how: Image.Resampling
) -> NDArray[np.floating]:
    """A few numbers (rows, columns) as a smooth picture of them."""
    coarse = Image.fromarray(values.astype(np.float32))
    return np.asarray(coarse.resize(size[::-1], how))


class _Canvas:
    """A picture to draw on; positions run from 0 to 1 over its height, x over its width too.

    Args:
        background: (H, W, 3), 0 to 255, in drawing pixels.
    """

    def __init__(self, background: NDArray[np.floating]) -> None:
        self.full = background.shape[0]
        self.image = Image.fromarray(background.astype(np.uint8))
        self._draw = ImageDraw.Draw(self.image)

    def polygon(self, color: Color, *points: Point) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * self.full, y * self.full) for x, y in points], fill=color)

    def box(self, color: Color, left: float, top: float, right: float, bottom: float) -> None:
        """A filled rectangle."""
        corners = [edge * self.full for edge in (left, top, right, bottom)]
        self._draw.rectangle(corners, fill=color)

    def disc(self, color: Color, x: float, y: float, radius: float) -> None:
        """A filled circle."""
        self.oval(color, x, y, radius, radius)

    def oval(self, color: Color, x: float, y: float, across: float, down: float) -> None:
        """A filled ellipse by its two radii."""
        corners = (x - across, y - down, x + across, y + down)
        self._draw.ellipse([corner * self.full for corner in corners], fill=color)

    def line(self, color: Color, width: float, *points: Point) -> None:
        """A line through the points with round corners and ends."""
        places = [(x * self.full, y * self.full) for x, y in points]
        self._draw.line(places, fill=color, width=round(width * self.full), joint="curve")
        for x, y in points:
            self.disc(color, x, y, width / 2)

    def pixels(self) -> NDArray[np.uint8]:
        """The picture at its final size, (H, W, 3) uint8."""
        size = (self.image.width // FINER, self.image.height // FINER)
        return np.asarray(self.image.resize(size, Image.Resampling.BOX))


def _sky(height: int, width: int) -> NDArray[np.floating]:
    down = np.linspace(0, 1, height)[:, None]
    sky = np.stack([90 + 120 * down, 150 + 70 * down, 235 - 15 * down], axis=-1)
    return sky.repeat(width, axis=1)


def house(side: int = SIDE) -> NDArray[np.uint8]:
    """A house, a tree and hills under a sky: large calm areas and small detail, (side, side, 3)."""
    canvas = _Canvas(_sky(side * FINER, side * FINER))

    def hill(color: Color, level: float, swing: float, waves: float) -> None:
        top = [(x, level + swing * np.sin(x * waves)) for x in np.linspace(0, 1, 60)]
        canvas.polygon(color, *top, (1, 1), (0, 1))

    canvas.disc((255, 220, 90), 0.80, 0.18, 0.09)
    for x, y, radius in ((0.20, 0.17, 0.05), (0.26, 0.15, 0.065), (0.33, 0.18, 0.05)):
        canvas.disc((250, 250, 252), x, y, radius)
    ridge = ((0, 0.62), (0.2, 0.42), (0.34, 0.56), (0.55, 0.36), (0.8, 0.58), (1, 0.48))
    canvas.polygon((104, 122, 150), *ridge, (1, 1), (0, 1))
    snow = ((0.485, 0.423), (0.55, 0.36), (0.61, 0.413), (0.57, 0.43), (0.55, 0.41), (0.52, 0.44))
    canvas.polygon((240, 244, 250), *snow)
    hill((96, 160, 72), 0.63, 0.04, 6)
    hill((66, 128, 56), 0.78, -0.05, 6)

    canvas.box((216, 190, 150), 0.16, 0.60, 0.42, 0.80)
    canvas.polygon((168, 60, 44), (0.13, 0.60), (0.29, 0.46), (0.45, 0.60))
    canvas.box((96, 60, 36), 0.26, 0.68, 0.32, 0.80)
    for left in (0.19, 0.355):
        canvas.box((70, 96, 128), left, 0.655, left + 0.045, 0.71)
        canvas.box((240, 240, 240), left + 0.0205, 0.655, left + 0.0245, 0.71)
        canvas.box((240, 240, 240), left, 0.6805, left + 0.045, 0.6845)

    canvas.box((100, 66, 40), 0.715, 0.66, 0.755, 0.86)
    crown: tuple[tuple[Color, float, float, float], ...] = (
        ((36, 96, 40), 0.735, 0.52, 0.12),
        ((44, 108, 44), 0.66, 0.58, 0.08),
        ((30, 86, 36), 0.81, 0.59, 0.085),
        ((70, 140, 60), 0.70, 0.50, 0.05),
        ((60, 128, 52), 0.78, 0.49, 0.04),
    )
    for color, x, y, radius in crown:
        canvas.disc(color, x, y, radius)
    for x, y in ((0.69, 0.60), (0.76, 0.55), (0.80, 0.62), (0.66, 0.53), (0.73, 0.63)):
        canvas.disc((214, 52, 40), x, y, 0.014)
    return canvas.pixels()


def person(height: int = SIDE, width: int = 168) -> NDArray[np.uint8]:
    """A person who waves, on a lawn: face and hands are what tokens should be spent on."""
    canvas = _Canvas(_sky(height * FINER, width * FINER))
    skin, dark, shirt, trousers = (226, 178, 140), (52, 36, 30), (196, 66, 60), (52, 70, 116)
    right = width / height
    canvas.polygon((104, 168, 84), (0, 0.70), (right, 0.66), (right, 1), (0, 1))
    canvas.line(trousers, 0.075, (0.345, 0.62), (0.325, 0.88))
    canvas.line(trousers, 0.075, (0.415, 0.62), (0.435, 0.88))
    canvas.line(dark, 0.05, (0.295, 0.90), (0.335, 0.90))
    canvas.line(dark, 0.05, (0.425, 0.90), (0.465, 0.90))
    canvas.polygon(shirt, (0.28, 0.36), (0.48, 0.36), (0.455, 0.64), (0.305, 0.64))
    canvas.line(shirt, 0.06, (0.30, 0.39), (0.22, 0.52))
    canvas.line(shirt, 0.06, (0.46, 0.39), (0.56, 0.31))
    canvas.line(skin, 0.045, (0.22, 0.54), (0.235, 0.64))
    canvas.line(skin, 0.045, (0.57, 0.29), (0.59, 0.18))
    for x, y in ((0.55, 0.115), (0.573, 0.095), (0.60, 0.09), (0.627, 0.10), (0.645, 0.135)):
        canvas.line(skin, 0.014, (0.595, 0.165), (x, y))
    for x in (0.22, 0.235, 0.25):
        canvas.line(skin, 0.014, (0.235, 0.65), (x, 0.69))
    canvas.line(skin, 0.05, (0.38, 0.33), (0.38, 0.37))
    canvas.oval(dark, 0.38, 0.215, 0.09, 0.105)
    canvas.oval(skin, 0.38, 0.24, 0.076, 0.098)
    for x in (0.352, 0.408):
        canvas.oval((250, 250, 250), x, 0.225, 0.017, 0.011)
        canvas.disc((60, 90, 60), x, 0.225, 0.009)
        canvas.line(dark, 0.007, (x - 0.018, 0.203), (x + 0.018, 0.200))
    canvas.line((196, 140, 106), 0.008, (0.38, 0.235), (0.374, 0.262), (0.384, 0.266))
    canvas.line((170, 60, 60), 0.012, (0.355, 0.292), (0.38, 0.301), (0.405, 0.292))
    return canvas.pixels()


def shapes(height: int = 160, width: int = SIDE) -> NDArray[np.uint8]:
    """Flat shapes, stripes and a chessboard on two colors."""
    across = np.linspace(0, 1, width * FINER)[None, :, None]
    left, right = np.array([36.0, 48, 78]), np.array([120.0, 96, 132])
    background = (left + (right - left) * across).repeat(height * FINER, axis=0)
    canvas = _Canvas(background)
    canvas.disc((240, 196, 60), 0.28, 0.36, 0.20)
    canvas.disc((208, 84, 60), 0.40, 0.48, 0.13)
    canvas.polygon((80, 180, 150), (0.62, 0.88), (0.80, 0.30), (0.98, 0.88))
    for column in range(6):
        for row in range(6):
            color = (236, 236, 236) if (row + column) % 2 else (24, 24, 24)
            x, y = 1.02 + 0.05 * column, 0.12 + 0.05 * row
            canvas.box(color, x, y, x + 0.049, y + 0.049)
    for stripe in range(9):
        y = 0.72 + 0.028 * stripe
        canvas.line((150, 200, 240), 0.012, (0.08, y), (0.50, y))
    return canvas.pixels()


# ---- photographs' stand-ins -----------------------------------------------------------------


@lru_cache(maxsize=32)
def photograph(seed: int, side: int) -> NDArray[np.uint8]:
    """What stands in for a photograph, (side, side, 3): calm parts and detail of several scales.

    A gradient, shapes of one color, shapes with texture, and the faint noise of a sensor. The cost
    of clustering depends on the data: in noise every row is easy and no region is flat.
    """
    draw = np.random.default_rng(seed)
    top, bottom = draw.uniform(30, 240, (2, 3))
    height = np.linspace(0, 1, side)[:, None, None]
    canvas = np.broadcast_to(top * (1 - height) + bottom * height, (side, side, 3)).copy()
    grain = _grain(draw, side)
    for _ in range(SHAPES):
        mask = np.asarray(_shape(draw, side), dtype=bool)
        texture = float(draw.choice(TEXTURES))
        canvas[mask] = draw.uniform(10, 245, 3) + texture * np.roll(grain, side // 3, 0)[mask]
    canvas += draw.normal(0, SENSOR_NOISE, canvas.shape)
    pixels: NDArray[np.uint8] = canvas.clip(0, 255).astype(np.uint8)
    pixels.flags.writeable = False  # the next caller gets the same array
    return pixels


def _shape(draw: np.random.Generator, side: int) -> Image.Image:
    """The mask of a disc, a leaning box, or a band over the full width."""
    mask = Image.new("1", (side, side))
    pen = ImageDraw.Draw(mask)
    x, y = draw.uniform(0, side, 2)
    size = side * draw.uniform(0.05, 0.3)
    kind = int(draw.integers(3))
    if kind == 0:
        pen.ellipse([x - size, y - size, x + size, y + size], fill=1)
    elif kind == 1:
        lean = draw.uniform(-0.5, 0.5) * size
        corners = [(x - size, y - size), (x + size, y - size + lean), (x + size, y + size)]
        pen.polygon([*corners, (x - size + lean, y + size)], fill=1)
    else:
        swing = draw.uniform(0.02, 0.1) * side
        across = np.linspace(0, side, 40)
        level = y + swing * np.sin(across / side * draw.uniform(2, 9))
        edge = list(zip(across.tolist(), level.tolist(), strict=True))
        pen.polygon([*edge, (side, min(side, y + size)), (0, min(side, y + size))], fill=1)
    return mask


def _grain(draw: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Detail of all scales, standard deviation one, (side, side, 1)."""
    total = np.zeros((side, side))
    cells = 4
    while cells <= side:
        noise = draw.normal(0, 1, (cells, cells))
        total += _smooth(noise, (side, side), Image.Resampling.BILINEAR)
        cells *= 3
    texture: NDArray[np.float64] = total / max(total.std(), 1e-6)
    return texture[:, :, None]


def even(size: Size) -> NDArray[np.uint8]:
    """One color; two halves; squares of 8 px: (NUM_EVEN, H, W, 3).

    Most of their tokens are equal, so what a program does with equal values decides the clusters.
    """
    made = np.full((NUM_EVEN, *size, 3), (130, 120, 140), np.uint8)
    made[1, :, size[1] // 2 :] = (90, 60, 30)
    rows, columns = (np.arange(side) // 8 for side in size)
    made[2][(rows[:, None] + columns) % 2 == 1] = (240, 200, 20)
    return made


def scenes(size: Size, count: int = NUM_SCENES) -> NDArray[np.uint8]:
    """Landscapes with things in them, (count, H, W, 3): the same for ever.

    They have what photographs have and noise has not: sharp edges, calm areas, one thing before
    another, texture at all scales, grain.
    """
    height, width = size
    made = []
    for number in range(count):
        draw = np.random.RandomState([0x5CE4E, number])
        sky, ground, hill = draw.uniform(90, 240, 3), draw.uniform(30, 150, 3), draw.uniform(0, 1)
        down = np.linspace(0, 1, height)[:, None, None]
        picture = sky * (1 - 0.5 * down) + 40 * _texture(draw, size)[..., None]
        edge = 0.45 + 0.1 * np.sin(np.linspace(0, 5, width) + 6 * hill)
        below = np.arange(height)[:, None] >= edge[None] * height
        picture[below] = (ground + 90 * _texture(draw, size)[..., None] - 30)[below]
        for _ in range(6):
            _put_thing(picture, draw)
        picture += draw.normal(0, 3, picture.shape)
        made.append(picture.clip(0, 255).astype(np.uint8))
    return np.stack(made)


def _texture(draw: np.random.RandomState, size: Size) -> NDArray[np.floating]:
    """Smooth noise at all scales, (H, W), about 0 to 1; weaker where finer, as in nature."""
    total, share = np.zeros(size), 0.5
    for cells in (2, 4, 8, 16, 32):
        noise = draw.uniform(0, 1, (cells, cells))
        total += share * _smooth(noise, size, Image.Resampling.BICUBIC)
        share /= 2
    return total


def _put_thing(picture: NDArray[np.floating], draw: np.random.RandomState) -> None:
    """A ball, a box or a gable with light from above and a texture of its own."""
    height, width = picture.shape[:2]
    radius = draw.uniform(0.06, 0.2) * min(height, width)
    x, y = draw.uniform(0, width), draw.uniform(0.3, 0.95) * height
    corners = [(x - radius, y - radius), (x + radius, y + radius)]
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    kind = draw.randint(3)
    if kind == 0:
        pen.ellipse(corners, fill=255)
    elif kind == 1:
        pen.rectangle(corners, fill=255)
    else:
        pen.polygon([(x, y - radius), corners[1], (x - radius, y + radius)], fill=255)
    inside = np.asarray(mask) > 0
    light = (np.arange(height)[:, None] - y) / max(radius, 1) * -25
    color = draw.uniform(10, 245, 3) + 50 * (_texture(draw, (height, width)) - 0.5)[..., None]
    picture[inside] = (color + light[..., None])[inside]


def stream(split: str, number: int, index: int) -> np.random.RandomState:
    """Random numbers to draw one image with: those of `number` and `index` to validate on.

    Training draws each image anew from NumPy's global generator, which `SeededDataset` seeds from
    (seed, epoch, index): there are as many images as one asks for.
    """
    if split == "train":
        return np.random.RandomState(np.random.randint(2**31))
    return np.random.RandomState([number, index])


def grained(draw: np.random.RandomState, pixels: NDArray[np.floating]) -> Image.Image:
    """An image with the noise of a sensor."""
    noisy = pixels + draw.normal(0, 6, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def canvas(draw: np.random.RandomState, size: int) -> NDArray[np.float64]:
    """A background (size, size, 3), 0 to 130: dark colors mixed by smooth noise and stripes."""
    cells = draw.randint(2, 7)
    noise = draw.uniform(0, 1, (cells, cells))
    share = _smooth(noise, (size, size), Image.Resampling.BICUBIC).astype(np.float64)
    angle, wave, phase = draw.uniform(0, np.pi), draw.uniform(4, 16), draw.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / wave) + phase)
    share = (share + draw.uniform(0, 0.25) * stripes).clip(0, 1)[..., None]
    one, two = draw.uniform(0, 130, 3), draw.uniform(0, 130, 3)
    return one * share + two * (1 - share)
