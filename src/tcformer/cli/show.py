"""`tcformer show`: draw the tokens of images, stage by stage."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError, nearest
from tcformer.viz import (
    FORMATS,
    KINDS,
    POINT_COLOURS,
    Look,
    Point,
    check_picture_name,
    read_image,
)
from tcformer.viz.paint import Colour

HELP = VERBS["show"]

LEAST_SIDE = 16
"""The network takes images from this side on, in pixels."""

MOST_PIXELS = 1024 * 1024
"""Clustering compares every token with every other: time grows with the square of the pixels."""

MOST_IMAGES = 100
"""Rows on one sheet; more would be a picture that few programs open."""

DEFAULT_MODEL = "tcformer_light"
DEFAULT_SHORT_SIDE = 224
DEFAULT_PANEL = 448

POINT_KINDS = ("region", "attention", "weights")
MOVING = ("gif", "webp")


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer show --help`."""
    args = _parse(argv)
    paths = [Path(name) for name in args.images]
    out = _checked_out(args.out, paths)
    _check_options(args, out)
    images = [_read(path, args) for path in paths]

    # Torch is imported only now: a mistake is answered at once.
    from tcformer.cli.show_rows import Request, draw_images
    from tcformer.predict import load

    loaded = load(
        args.model,
        args.checkpoint,
        pretrained=args.pretrained,
        ema=False if args.no_ema else None,
        device=args.device,
    )
    for note in loaded.notes:
        print(f"note: {_in_words(note)}", file=sys.stderr)
    request = Request(
        kinds=tuple(args.draw),
        points=tuple(args.point),
        stage=args.stage,
        block=args.block,
        head=args.head,
        panel_size=args.panel_size if isinstance(args.panel_size, int) else None,
        look=Look(args.outline, args.opacity, args.edge_colour),
        seconds=args.seconds or 1.4,
        size=args.size,
    )
    for line in draw_images(loaded, paths, images, request, out):
        print(line)
    print(f"wrote {out}")
    return 0


def _in_words(note: str) -> str:
    if "weights are random" not in note:
        return f"{note}."
    return (
        "no --checkpoint is given, so the weights are random: tokens follow what the "
        "image looks like, not what a trained network finds important."
    )


def _parse(argv: list[str]) -> Namespace:
    kinds = "; ".join(f"{name}: {words}" for name, words in KINDS.items())
    parser = Parser(
        "show",
        epilog="Each row of the picture is one image and, to its right, the same image drawn by "
        f"its tokens after each stage. What can be drawn: {kinds}.",
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add(
        "--model",
        metavar="NAME",
        help=f"model to run (default: the checkpoint's own, else {DEFAULT_MODEL})",
        default=None,
    )
    add(
        "--checkpoint",
        metavar="FILE",
        default=None,
        help="trained weights; without them the network is random",
    )
    add("--pretrained", action="store_true", help="the weights the authors published for --model")
    add("--no-ema", action="store_true", help="the last weights, although there are averaged ones")
    add("--device", default="cpu", help="cpu, auto (a GPU if there is one), cuda, cuda:N or mps")
    add(
        "--out",
        metavar="FILE",
        default="tokens.png",
        help="picture to write: .png, .svg (tokens are paths), or .gif or .webp (the merging as "
        "a moving picture)",
    )
    add(
        "--draw",
        "--fill",
        metavar="WHAT",
        type=_kinds,
        default=None,
        help=f"what to draw, one or several with commas between: {', '.join(KINDS)} "
        "(default: mean; with --point region,attention,weights)",
    )
    add(
        "--point",
        metavar="X,Y",
        type=_point,
        action="append",
        default=[],
        help="follow the token at this point, in pixels of the image from its upper left corner; "
        f"may be given {len(POINT_COLOURS)} times",
    )
    add(
        "--stage",
        metavar="N",
        type=_count,
        default=None,
        help="for family: the stage whose tokens have a colour each; for weights: the stage of "
        "the token that others contribute to (default: the last)",
    )
    add(
        "--block",
        metavar="N",
        type=_count,
        default=None,
        help="for attention: which block of each stage, from 1 (default: the last)",
    )
    add(
        "--head",
        metavar="N",
        type=_count,
        default=None,
        help="for attention: which head, from 1 (default: the mean of all)",
    )
    add(
        "--opacity",
        metavar="PERCENT",
        type=_percent,
        default=None,
        help="of the paint on the image, 0 to 100 (default: what suits each drawing)",
    )
    add("--outline", action=BooleanOptionalAction, default=True, help="draw the tokens' borders")
    add(
        "--edge-colour",
        metavar="COLOUR",
        type=_colour,
        default=None,
        help="of the borders: a name such as black, or #rrggbb (default: white, or dark where the "
        "image is bright)",
    )
    add(
        "--size",
        metavar="N",
        type=_size,
        default=None,
        help="short side of the image that the network sees, in pixels, or `full` for the image as "
        "it is (default: what the checkpoint was trained with, else "
        f"{DEFAULT_SHORT_SIDE}, for larger images, smaller ones as they are)",
    )
    add(
        "--panel-size",
        metavar="N",
        type=_panel,
        default=DEFAULT_PANEL,
        help="wished length of a panel's longer side in pixels, rounded so that all tokens' cells "
        "are equal, or `full` for the resolution of the image",
    )
    add(
        "--seconds",
        metavar="S",
        type=float,
        default=None,
        help="how long a moving picture stands still at each stage (default: 1.4)",
    )
    args = parser.parse_args(argv)
    if args.draw is None:
        args.draw = list(POINT_KINDS) if args.point else ["mean"]
    return args


def _check_options(args: Namespace, out: Path) -> None:
    """Refuse what cannot be drawn, and options that nothing would come of."""
    drawn = set(args.draw)
    lonely = [kind for kind in args.draw if kind in POINT_KINDS]
    if lonely and not args.point:
        raise UserError(f"--draw {lonely[0]} is about the token at a point: give --point X,Y")
    if "none" in drawn and not args.outline:
        raise UserError("--draw none with --no-outline would draw no tokens: drop one of the two")
    if args.opacity is not None and not drawn - {"none", "region"}:
        raise UserError(f"--opacity means nothing to --draw {args.draw[0]}: drop it")
    for option, value, kinds in (
        ("--stage", args.stage, ("family", "weights")),
        ("--block", args.block, ("attention",)),
        ("--head", args.head, ("attention",)),
    ):
        if value is not None and not drawn & set(kinds):
            raise UserError(
                f"{option} is for --draw {' or '.join(kinds)}: add it, or drop {option}"
            )
    if args.seconds is not None:
        if out.suffix.lower().removeprefix(".") not in MOVING:
            raise UserError(f"--seconds is for moving pictures, and {out.name} is none: drop it")
        if not (math.isfinite(args.seconds) and 0.1 <= args.seconds <= 60):
            raise UserError(f"--seconds is {args.seconds:g}, but 0.1 to 60 are meant")
    if len(args.point) > len(POINT_COLOURS):
        raise UserError(f"{len(args.point)} points are too many: give at most {len(POINT_COLOURS)}")
    if len(args.images) > MOST_IMAGES:
        raise UserError(
            f"{len(args.images)} images are too many for one picture: give at most {MOST_IMAGES}"
        )


def _kinds(text: str) -> list[str]:
    kinds = [word.strip() for word in text.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            guess = nearest(kind, KINDS)
            hint = f", did you mean {guess}" if guess else f", choose of {', '.join(KINDS)}"
            raise ArgumentTypeError(f"there is no {kind!r}{hint}")
    if len(set(kinds)) < len(kinds):
        raise ArgumentTypeError(f"{text} names something twice, name each once")
    return kinds


def _point(text: str) -> Point:
    try:
        x, y = (float(part) for part in text.split(","))
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no point, give two numbers, X,Y, in pixels from the upper left "
            "corner of the image"
        ) from None
    return x, y


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_count.__name__ = "number (a whole one from 1)"


def _percent(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 100:
        raise ValueError
    return number


_percent.__name__ = "percentage (a whole number from 0 to 100)"


def _colour(text: str) -> Colour:
    red, green, blue, *_ = ImageColor.getrgb(text)
    return red, green, blue


_colour.__name__ = "colour (a name such as black, or #rrggbb)"


def _size(text: str) -> int | str:
    if text == "full":
        return text
    size = int(text)
    if size < LEAST_SIDE:
        raise ValueError
    return size


_size.__name__ = f"size (a whole number from {LEAST_SIDE}, or full)"


def _panel(text: str) -> int | str:
    if text == "full":
        return text
    size = int(text)
    if not 1 <= size <= 16384:
        raise ValueError
    return size


_panel.__name__ = "length (a whole number from 1 to 16384, or full)"


def _checked_out(name: str, inputs: list[Path]) -> Path:
    """Refuse a bad name for the result before any work is done, above all one of the inputs."""
    out = check_picture_name(name, FORMATS)
    for path in inputs:
        if path.exists() and out.exists() and path.samefile(out):
            raise UserError(f"--out {out} would overwrite the image itself: give another name")
    return out


def _read(path: Path, args: Namespace) -> NDArray[np.uint8]:
    """The image of a file as it is meant to be seen, checked as far as torch is not needed."""
    image = read_image(path)
    height, width = image.shape[:2]
    check_seen(path, (height, width), seen_size((height, width), args.size, DEFAULT_SHORT_SIDE))
    for x, y in args.point:
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"--point {x:g},{y:g} lies outside of {path}, which is {width} pixels wide and "
                f"{height} high: give x from 0 to {width - 1} and y from 0 to {height - 1}"
            )
    return image


def check_seen(path: Path, original: tuple[int, int], seen: tuple[int, int]) -> None:
    """Refuse sizes that the network cannot see, or not in reasonable time."""
    if min(seen) < LEAST_SIDE:
        raise UserError(
            f"{path} is {original[0]} x {original[1]} px, and the network needs at least "
            f"{LEAST_SIDE} on each side: enlarge it with --size {4 * LEAST_SIDE}"
        )
    if seen[0] * seen[1] > MOST_PIXELS:
        raise UserError(
            f"{path} would be seen as {seen[0]} x {seen[1]} px, which takes too long (the limit is "
            f"{MOST_PIXELS // 2**20} million pixels): give a smaller --size"
        )


def seen_size(original: tuple[int, int], size: int | str | None, default: int) -> tuple[int, int]:
    """Height and width for the network: the aspect is kept, the short side is as asked."""
    short = min(original)
    if size == "full" or (size is None and short <= default):
        return original
    target = default if size is None else int(size)
    height, width = (max(1, round(side * target / short)) for side in original)
    return height, width
