"""Draw a small data set of capital letters: an ImageFolder of PNG files.

    python examples/letters.py letters

writes letters/train/A/0.png and so on: ten classes, 32 x 32 pixels, chalk on a blackboard, each
letter with a colour, a place, a size and an angle of its own. Nothing is downloaded, and the same
seed gives the same files. docs/results.md trains on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHJK"
SIDE, FINER = 32, 4


def draw(letter: str, random: np.random.Generator) -> Image.Image:
    """One picture, SIDE x SIDE pixels, drawn larger and then made smaller."""
    full = SIDE * FINER
    mottled = random.uniform(0, 60, 3) + random.normal(0, 12, (SIDE // 4, SIDE // 4, 3))
    picture = Image.fromarray(mottled.clip(0, 255).astype(np.uint8))
    picture = picture.resize((full, full), Image.Resampling.BILINEAR)
    shape = Image.new("L", (full, full))
    font = ImageFont.load_default(full * random.uniform(0.65, 0.95))
    stroke = int(random.integers(0, full // 24))
    middle = (full / 2, full / 2)
    ImageDraw.Draw(shape).text(middle, letter, 255, font, anchor="mm", stroke_width=stroke)
    across, down = (random.uniform(-0.08, 0.08, 2) * full).astype(int).tolist()
    angle = random.uniform(-15, 15)
    shape = shape.rotate(angle, Image.Resampling.BICUBIC, translate=(across, down))
    chalk = random.uniform(150, 255, 3).astype(int).tolist()
    picture.paste(tuple(chalk), (0, 0), shape)
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write train/ and val/")
    parser.add_argument("--train", type=int, default=40, help="training pictures of each letter")
    parser.add_argument("--val", type=int, default=50, help="validation pictures of each letter")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for split, (name, count) in enumerate((("train", args.train), ("val", args.val))):
        for number, letter in enumerate(LETTERS):
            folder = args.folder / name / letter
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                random = np.random.default_rng([args.seed, split, number, index])
                draw(letter, random).save(folder / f"{index}.png")
    print(f"{args.folder}: {len(LETTERS)} letters, {args.train} + {args.val} pictures of each")


if __name__ == "__main__":
    main()
