"""Pages of the documentation as tests see them: blocks, commands, files to try them on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
)


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: (language, text), of these languages or of all."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [block for block in found if not languages or block[0] in languages]


def commands(text: str) -> list[str]:
    """The commands of a page's `sh` and `console` blocks, comments left out; a script is one."""
    found = []
    for language, block in blocks(text, "sh", "console"):
        if block.startswith("#!"):
            found.append(block)
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if language == "console":
                if not line.startswith("$ "):
                    continue  # what the command printed
                line = line[2:]
            line = re.sub(r"(^|\s+)#.*", "", line).strip()
            if line:
                found.append(line)
    return found


def stand_in(path: Path, script: str) -> Path:
    """A program of a few lines of shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def stand_in_for_srun(bin_folder: Path, note: Path) -> None:
    """`srun` that notes its options and runs its program; Slurm itself is met in tests/slurm."""
    skip = (
        f'while [ "${{1#-}}" != "$1" ]; do printf "%s\\n" "$1" >> {shlex.quote(str(note))}; shift'
    )
    stand_in(bin_folder / "srun", f'{skip}; done\nexec "$@"')


def image_folder(
    root: Path, classes: Iterable[str] = ("cat", "dog"), train: int = 8, val: int = 3
) -> Path:
    """An ImageFolder of noise with `train/` and `val/`."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return root
