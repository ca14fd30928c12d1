"""`tcformer show`: draw the tokens of images, stage by stage."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from tcformer.cli.parser import Parser, load_network, print_notes, real, whole
from tcformer.errors import UserError, nearest
from tcformer.images import LEAST_SIDE, read_image, resize_image, seen_size
from tcformer.viz import (
    FORMATS,
    POINT_COLORS,
    STYLES,
    Figure,
    Point,
    Row,
    Style,
    check_picture_name,
    layout_maps,
    panel_picture,
    panel_shape,
    with_image,
    write_moving,
    write_sheet,
)
from tcformer.viz.canvas import MOST_PIXELS
from tcformer.viz.paint import Color
from tcformer.viz.regions import check_inside
from tcformer.viz.sheet import MOST_FRAME_PIXELS

if TYPE_CHECKING:
    from tcformer.models.trace import Trace
    from tcformer.predict import Loaded

MOST_IMAGES = 100
"""Rows on one sheet; more would be a picture that few programs open."""

SHORT_SIDE = 224
POINT_STYLES = ("region", "attention", "weights")

RANDOM = (
    "no --checkpoint is given, so the weights are random: tokens follow what the image looks like, "
    "not what a trained network finds important"
)

Size = tuple[int, int]


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer show --help`."""
    args = _parse(argv)
    paths = [Path(name) for name in args.images]
    out = check_picture_name(args.out, FORMATS)
    for path in paths:
        if path.exists() and out.exists() and path.samefile(out):
            raise UserError(f"--out {out} would overwrite the image itself: give another name")
    _check_options(args, out)
    images = [_read(path, args) for path in paths]
    loaded = load_network(args)  # imports torch: a mistake is answered before that
    print_notes(RANDOM if "weights are random" in note else note for note in loaded.notes)
    _check_model(loaded, args)
    usual = loaded.preprocessing.input_size if loaded.source else SHORT_SIDE
    sizes = [_seen(*one, args, usual) for one in zip(paths, images, strict=True)]
    _check_extent(images, sizes, args, _moves(out))
    all_rows = []
    for path, image, seen in zip(paths, images, sizes, strict=True):
        traced = _traced(loaded, image, seen, args)
        counts = ", ".join(str(tokens.layout.num_tokens) for tokens in traced.stages)
        height, width = image.shape[:2]
        print(f"{path}: {height} x {width} px, seen as {seen[0]} x {seen[1]}, {counts} tokens")
        rows = _rows(traced, image, seen, args, path.name)
        weights = "random weights" if loaded.source is None else Path(loaded.source).name
        by = f"seen by {loaded.name} ({weights}) at {seen[1]} x {seen[0]} px"
        about = f"{path.name}: {width} x {height} px, {by}\n{rows[0].heading}"
        rows[0] = rows[0]._replace(heading=about)
        all_rows.append(rows)
    if _moves(out):
        write_moving(out, _merging(all_rows), seconds=args.seconds or 1.4)
    else:
        write_sheet(out, [row for rows in all_rows for row in rows])
    print(f"wrote {out}")
    return 0


# ---- options --------------------------------------------------------------------------------


def _parse(argv: list[str]) -> Namespace:
    styles = "; ".join(f"{name}: {words}" for name, words in STYLES.items())
    parser = Parser(
        "show",
        epilog="Each row of the picture is one image and, to its right, the same image drawn by "
        f"its tokens after each stage. What can be drawn: {styles}.",
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    default = "model to run (default: the checkpoint's own, else tcformer_light)"
    parser.share(
        "model", "checkpoint", "pretrained", "ema", "device", model={"help": default},
        checkpoint={"help": "trained weights; without them the network is random"},
        device={"default": "cpu"},
    )  # fmt: skip
    add("--out", metavar="FILE", default="tokens.png", help="picture to write: .png, .svg (tokens "
        "are paths), or .gif or .webp (the merging as a moving picture)")  # fmt: skip
    add("--draw", "--fill", metavar="WHAT", type=_styles, help="drawings, separated by commas: "
        f"{', '.join(STYLES)} (default: mean, or region,attention,weights with "
        "--point)")  # fmt: skip
    add("--point", metavar="X,Y", type=_point, action="append", default=[], help="follow the token "
        "at this point, in pixels from the upper left corner; may be given up to "
        f"{len(POINT_COLORS)} times")  # fmt: skip
    add("--stage", metavar="N", type=whole(1), help="stage whose tokens have a color each (family) "
        "or are merged from others (weights) (default: the last)")  # fmt: skip
    add("--block", metavar="N", type=whole(1), help="attention of this block of each stage, from 1 "
        "(default: the last)")  # fmt: skip
    add("--head", metavar="N", type=whole(1), help="attention of this head, from 1 (default: the "
        "mean of all)")  # fmt: skip
    add("--opacity", metavar="PERCENT", type=whole(0, 100), help="of the paint on the image "
        "(default: what suits each drawing)")  # fmt: skip
    add("--outline", action=BooleanOptionalAction, default=True, help="draw the tokens' borders")
    add("--edge-colour", "--edge-color", metavar="COLOUR", type=_color, dest="edge_color",
        help="of borders: a name or #rrggbb (default: white, dark on bright images)")  # fmt: skip
    add("--size", metavar="N", type=whole(LEAST_SIDE, word="full"), help="short side of what the "
        "network sees, in pixels, or `full` for the image as it is (default: at most the size the "
        f"checkpoint was trained with, or {SHORT_SIDE})")  # fmt: skip
    add("--panel-size", metavar="N", type=whole(1, 16384, word="full"), default=448, help="longer "
        "side of a panel in pixels, about, or `full` for the image's resolution")  # fmt: skip
    add("--seconds", metavar="S", type=real(0.1, 60), help="how long a moving picture stands still "
        "at each stage (default: 1.4)")  # fmt: skip
    args = parser.parse_args(argv)
    args.panel_size = None if args.panel_size == "full" else args.panel_size
    args.draw = args.draw or (list(POINT_STYLES) if args.point else ["mean"])
    return args


def _check_options(args: Namespace, out: Path) -> None:
    """Refuse what cannot be drawn, and options that nothing would come of."""
    drawn = set(args.draw)
    lonely = [style for style in args.draw if style in POINT_STYLES]
    if lonely and not args.point:
        raise UserError(f"--draw {lonely[0]} is about the token at a point: give --point X,Y")
    if "none" in drawn and not args.outline:
        raise UserError("--draw none with --no-outline would draw no tokens: drop one of the two")
    if args.opacity is not None and not drawn - {"none", "region"}:
        raise UserError(f"--opacity means nothing to --draw {args.draw[0]}: drop it")
    users = {"stage": ("family", "weights"), "block": ("attention",), "head": ("attention",)}
    for option, styles in users.items():
        if getattr(args, option) is not None and not drawn & set(styles):
            meant = " or ".join(styles)
            raise UserError(f"--{option} is for --draw {meant}: add it, or drop --{option}")
    if args.seconds is not None and not _moves(out):
        raise UserError(f"--seconds is for moving pictures, and {out.name} is none: drop it")
    for option, most in (("point", len(POINT_COLORS)), ("images", MOST_IMAGES)):
        given = len(getattr(args, option))
        if given > most:
            raise UserError(f"{given} {option.rstrip('s')}s are too many: give at most {most}")


def _moves(out: Path) -> bool:
    return out.suffix.lower() in (".gif", ".webp")


def _styles(text: str) -> list[str]:
    styles = [word.strip() for word in text.split(",")]
    for style in styles:
        if style not in STYLES:
            guess = nearest(style, STYLES)
            hint = f", did you mean {guess}" if guess else f", choose of {', '.join(STYLES)}"
            raise ArgumentTypeError(f"there is no {style!r}{hint}")
    if len(set(styles)) < len(styles):
        raise ArgumentTypeError(f"{text} names something twice, name each once")
    return styles


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


def _color(text: str) -> Color:
    red, green, blue, *_ = ImageColor.getrgb(text)
    return red, green, blue


_color.__name__ = "colour (a name such as black, or #rrggbb)"


def _read(path: Path, args: Namespace) -> NDArray[np.uint8]:
    """The image of a file as it is meant to be seen, checked as far as torch is not needed."""
    image = read_image(path)
    for point in args.point:
        check_inside(point, image.shape[:2], f"--point of {path}:")
    _seen(path, image, args, SHORT_SIDE)
    return image


def _seen(path: Path, image: NDArray[np.uint8], args: Namespace, usual: int) -> Size:
    """Height and width at which the network sees an image."""
    hint = f"give another --size, such as {4 * LEAST_SIDE}"
    return seen_size(image.shape[:2], args.size, usual, what=str(path), hint=hint)


def _check_model(loaded: Loaded, args: Namespace) -> None:
    stages = len(loaded.backbone.depths)
    if args.stage is not None and args.stage > stages:
        raise UserError(f"--stage {args.stage}: {loaded.name} has {stages} stages")
    if args.stage == 1 and "weights" in args.draw:
        raise UserError("--stage 1: the first tokens are merged from none; weights need 2 or more")
    first = [getattr(loaded.backbone, f"block{stage}")[0] for stage in range(1, stages + 1)]
    heads = [block.attn.num_heads for block in first]
    for option, there in (("block", loaded.backbone.depths), ("head", heads)):
        value = getattr(args, option)
        if value is not None and value > max(there):
            counts = ", ".join(map(str, there))
            raise UserError(
                f"--{option} {value}: the stages of {loaded.name} have {counts} {option}s"
            )


def _check_extent(
    images: Sequence[NDArray[np.uint8]], sizes: Sequence[Size], args: Namespace, moving: bool
) -> None:
    """Refuse a picture that is too large for programs and memory, before anything is drawn."""
    of_points = sum(style in ("attention", "weights") for style in args.draw)
    rows = len(args.draw) + of_points * (max(1, len(args.point)) - 1)
    area = 0
    for image, seen in zip(images, sizes, strict=True):
        height, width = panel_shape((image.shape[0], image.shape[1]), seen, args.panel_size)
        area += height * width * rows * (1 if moving else 5)
    most = MOST_FRAME_PIXELS if moving else MOST_PIXELS
    if area > most:
        raise UserError(
            f"the picture would have {area / 1e6:.0f} million pixels, and {most / 1e6:.0f} is what "
            "programs can open: give fewer images or drawings, or a smaller --panel-size"
        )


# ---- drawings -------------------------------------------------------------------------------


def _traced(loaded: Loaded, image: NDArray[np.uint8], seen: Size, args: Namespace) -> Trace:
    from tcformer.models.trace import trace

    batch = loaded.preprocessing.normalize(resize_image(image, seen))
    return trace(loaded.backbone, batch.to(loaded.device), block=args.block)


def _rows(
    traced: Trace, image: NDArray[np.uint8], seen: Size, args: Namespace, title: str
) -> list[Row]:
    """All rows of one image."""
    figure = Figure(
        panel_picture(image, seen, args.panel_size),
        layout_maps(traced.stages),
        seen=seen,
        weights=[tokens.layout.cell_weight[0] for tokens in traced.stages],
        scores=[score[0] for score in traced.scores],
        points_in=(image.shape[0], image.shape[1]),
        look=Style(args.outline, args.opacity, args.edge_color),
    )
    rows = []
    for style in args.draw:
        if style not in ("attention", "weights"):
            row = (
                figure.draw_regions(args.point)
                if style == "region"
                else figure.draw(style, family_stage=args.stage, points=args.point)
            )
            rows.append(with_image(row, figure, title, args.point))
            continue
        for point, color in zip(args.point, POINT_COLORS, strict=False):
            if style == "weights":
                row = figure.draw_contributions(point, stage=args.stage, color=color)
            else:
                row = _attention(traced, figure, point, args, color)
            row = row._replace(heading=f"{row.heading} ({point[0]:g}, {point[1]:g})")
            rows.append(with_image(row, figure, title, [point], [color]))
    return rows


def _attention(traced: Trace, figure: Figure, point: Point, args: Namespace, color: Color) -> Row:
    weights, captions, heads = [], [], []
    for attended, token in zip(traced.attended, figure.tokens_at(point), strict=True):
        heads.append(min(args.head or 0, attended.layer.num_heads))
        weights.append(attended.weights(token, head=heads[-1] or None))
        captions.append(f"{len(weights[-1])} {attended.over}")
    keys = [attended.cell_to_key[0] for attended in traced.attended]
    row = figure.draw_attention(point, keys, weights, captions=captions, color=color)
    which, of = "last block of each stage", "mean of all heads"
    if args.block is not None:
        which = f"block {', '.join(map(str, traced.blocks))} of the stages"
    if args.head is not None:
        of = f"head {', '.join(map(str, heads))}"
    return row._replace(heading=f"{STYLES['attention']}: {which}, {of};")


def _merging(rows_of_images: list[list[Row]]) -> list[list[Row]]:
    """The sheets of a moving picture: the images, then their tokens stage by stage.

    A drawing that has fewer stages than others stands still at its last one.
    """
    sheets = []
    for stage in range(max(len(row.panels) for rows in rows_of_images for row in rows)):
        lines = [
            [row.panels[min(stage, len(row.panels) - 1)] for row in rows] for rows in rows_of_images
        ]
        if all(len(line) == 1 for line in lines):
            # One drawing of each image: images stand in a block, not in one long column.
            across = math.ceil(math.sqrt(len(lines)))
            panels = [panel for line in lines for panel in line]
            lines = [panels[start : start + across] for start in range(0, len(panels), across)]
        sheets.append([Row(tuple(line)) for line in lines])
    return sheets
