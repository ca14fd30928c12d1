"""`tcformer show`: draw the tokens of images, stage by stage."""

from __future__ import annotations

import sys
from argparse import BooleanOptionalAction, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError
from tcformer.viz import (
    FILLS,
    check_png_name,
    contact_sheet,
    read_image,
    resize_image,
    token_row,
    write_png,
)

if TYPE_CHECKING:
    from torch import Tensor

    from tcformer.models import TCFormer

HELP = VERBS["show"]

LEAST_SIDE = 16
"""The network takes images from this side on, in pixels."""

MOST_PIXELS = 1024 * 1024
"""Clustering compares every token with every other: time grows with the square of the pixels."""

MOST_IMAGES = 100
"""Rows on one sheet; more would be a picture that few programs open."""

DEFAULT_SHORT_SIDE = 224


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer show --help`."""
    args = _parse(argv)
    paths = [Path(name) for name in args.images]
    out = _checked_out(args.out, paths)
    pictures = [_read(path, args.size) for path in paths]
    model = load_model(args.model, args.checkpoint)
    if args.checkpoint is None:
        print(
            "note: no --checkpoint is given, so the weights are random: tokens follow what the "
            "image looks like, not what a trained network finds important.",
            file=sys.stderr,
        )
    rows = []
    for path, (picture, original) in zip(paths, pictures, strict=True):
        maps = cell_maps(model, picture)
        counts = ", ".join(str(len(np.unique(cells))) for cells in maps)
        height, width = picture.shape[:2]
        print(
            f"{path}: {original[0]} x {original[1]} px, seen as {height} x {width}, {counts} tokens"
        )
        rows.append(
            token_row(
                picture,
                maps,
                title=path.name,
                fill=args.fill,
                outline=args.outline,
                panel_size=args.panel_size,
            )
        )
    write_png(out, contact_sheet(rows))
    print(f"wrote {out}")
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        "show",
        epilog="Each row of the picture is one image and, to its right, the same image painted by "
        "its tokens after each stage: a token gets the mean colour of the pixels it covers.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="model to run (default: the checkpoint's own, else tcformer_light)",
        default=None,
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        default=None,
        help="trained weights; without them the network is random",
    )
    parser.add_argument("--out", metavar="FILE.png", default="tokens.png", help="picture to write")
    parser.add_argument(
        "--size",
        metavar="N",
        type=_size,
        default=None,
        help="short side of the image that the network sees, in pixels, or `full` for the image as "
        f"it is (default: {DEFAULT_SHORT_SIDE} for larger images, smaller ones as they are)",
    )
    parser.add_argument(
        "--fill",
        choices=FILLS,
        default="mean",
        help="what a token is painted with: its mean colour, nothing, or a colour of its own",
    )
    parser.add_argument(
        "--outline", action=BooleanOptionalAction, default=True, help="draw the tokens' borders"
    )
    parser.add_argument(
        "--panel-size",
        metavar="N",
        type=int,
        default=448,
        help="wished length of a panel's longer side; images are enlarged by a whole factor from 2",
    )
    args = parser.parse_args(argv)
    if args.fill == "none" and not args.outline:
        raise UserError("--fill none with --no-outline would draw no tokens: drop one of the two")
    if args.panel_size < 1:
        raise UserError(f"--panel-size is {args.panel_size}, but at least 1 pixel is meant")
    if len(args.images) > MOST_IMAGES:
        raise UserError(
            f"{len(args.images)} images are too many for one picture: give at most {MOST_IMAGES}"
        )
    return args


def _size(text: str) -> int | str:
    if text == "full":
        return text
    size = int(text)
    if size < LEAST_SIDE:
        raise ValueError
    return size


_size.__name__ = f"size (a whole number from {LEAST_SIDE}, or full)"


def _checked_out(name: str, inputs: list[Path]) -> Path:
    """Refuse a bad name for the result before any work is done, above all one of the inputs."""
    out = check_png_name(name)
    for path in inputs:
        if path.exists() and out.exists() and path.samefile(out):
            raise UserError(f"--out {out} would overwrite the image itself: give another name")
    return out


def _read(path: Path, size: int | str | None) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The picture that the network will see, and the height and width of the file's image."""
    image = read_image(path)
    original = image.shape[:2]
    height, width = _seen_size(original, size)
    if min(height, width) < LEAST_SIDE:
        raise UserError(
            f"{path} is {original[0]} x {original[1]} px, and the network needs at least "
            f"{LEAST_SIDE} on each side: enlarge it with --size {4 * LEAST_SIDE}"
        )
    if height * width > MOST_PIXELS:
        raise UserError(
            f"{path} would be seen as {height} x {width} px, which takes too long (the limit is "
            f"{MOST_PIXELS // 2**20} million pixels): give a smaller --size"
        )
    return resize_image(image, (height, width)), original


def _seen_size(original: tuple[int, int], size: int | str | None) -> tuple[int, int]:
    """Height and width for the network: the aspect is kept, the short side is as asked."""
    short = min(original)
    if size == "full" or (size is None and short <= DEFAULT_SHORT_SIDE):
        return original
    target = DEFAULT_SHORT_SIDE if size is None else int(size)
    height, width = (max(1, round(side * target / short)) for side in original)
    return height, width


def load_model(name: str | None, checkpoint: str | Path | None) -> TCFormer:
    """The model in evaluation mode, with the checkpoint's weights or reproducibly random ones.

    Args:
        name: a variant; None takes the checkpoint's own, or the default without a checkpoint.
        checkpoint: a file of weights, of which sizes, classes and channels are taken.

    Raises:
        UserError: no such model, or the file holds nothing that fits.
    """
    from tcformer.inference import load

    return load(name, checkpoint).backbone


def network_input(model: TCFormer, picture: NDArray[np.uint8]) -> Tensor:
    """An (H, W, 3) uint8 picture as the normalised (1, C, H, W) float32 batch of this model."""
    import torch

    config = cast("dict[str, Any]", model.pretrained_cfg)  # timm sets it on every model
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = torch.tensor(picture).permute(2, 0, 1)
    if model.in_chans == 1:
        # As in training (tcformer.data.transforms): luma, and the average of the three channels.
        pixels = torch.tensor(np.asarray(Image.fromarray(picture).convert("L")))[None]
        mean, std = mean.mean(), std.mean()
    return ((pixels / 255 - mean) / std)[None]


def cell_maps(model: TCFormer, picture: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """For each stage the token of each cell of one picture, (H0*W0,) integers."""
    import torch

    with torch.inference_mode():
        stages = model.forward_tokens(network_input(model, picture))
    return [tokens.layout.cell_to_token[0].numpy() for tokens in stages]
