"""Images a second of the input pipeline in one process, and whether that feeds the model."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tcformer.bench import inputs, timing
from tcformer.data.dataset import ImageDataset
from tcformer.data.decode import require_decoder
from tcformer.data.seeding import seed_all
from tcformer.data.spec import DECODERS, TransformSpec
from tcformer.data.transforms import train_transform
from tcformer.errors import UserError
from tcformer.processor import usable_cores

CPU = torch.device("cpu")

NUM_DRAWN = 24
DRAWN_SIZE = (500, 375)
"""Width and height of the drawn files, in pixels: the middle of ImageNet's."""

JPEG_QUALITY = 90
MOST_FILES = 256


class Files:
    """The image files below a folder, as a source of `ImageDataset`."""

    classes = ("image",)

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded bytes, and the only label."""
        return self.paths[index].read_bytes(), 0

    def describe(self, index: int) -> str:
        """The file."""
        return str(self.paths[index])


@contextlib.contextmanager
def files(folder: Path | None) -> Iterator[Files]:
    """The images of a folder, else drawn JPEG files that live as long as the context."""
    if folder is not None:
        yield Files(inputs.image_files(folder)[:MOST_FILES])
        return
    with tempfile.TemporaryDirectory(prefix="tcformer-bench-") as place:
        paths = []
        for seed in range(NUM_DRAWN):
            width, height = DRAWN_SIZE
            image = Image.fromarray(inputs.picture(seed, max(width, height))[:height, :width])
            paths.append(Path(place, f"{seed:03}.jpg"))
            image.save(paths[-1], quality=JPEG_QUALITY)
        yield Files(paths)


def decoders() -> tuple[list[str], dict[str, str]]:
    """The decoders that work here, and the others with the reason."""
    there, missing = [], {}
    for decoder in DECODERS:
        try:
            require_decoder(decoder)
            there.append(decoder)
        except UserError as why:
            missing[decoder] = str(why)
    return there, missing


def measure(
    source: Files,
    *,
    size: int = 224,
    rounds: int = 5,
    images: int = 32,
    needed: float | None = None,
    model: str = "",
) -> dict[str, Any]:
    """Let the decoders take turns on the same files, with one thread, as a data worker has.

    Args:
        source: the files.
        size: side of the training crop, pixels.
        rounds: turns of each decoder.
        images: images a turn.
        needed: images a second that the model takes in training, if that is known.
        model: its name.

    Returns:
        A row of the record: for each decoder the images a second of decoding alone and of decoding
        with the training transform, and the processes that would feed the model.

    Raises:
        UserError: a file cannot be read as an image.
    """
    there, missing = decoders()
    steps: dict[str, timing.Step] = {}
    for decoder in there:
        whole = train_transform(TransformSpec(input_size=size))
        bare = ImageDataset(source, None, decoder=decoder)  # type: ignore[arg-type]
        full = ImageDataset(source, whole, decoder=decoder)  # type: ignore[arg-type]
        steps[f"{decoder}: decode"] = _reader(bare, images)
        steps[f"{decoder}: decode and transform"] = _reader(full, images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = timing.interleaved(steps, device=CPU, rounds=rounds, warmup=0, turn=0.0)
    finally:
        torch.set_num_threads(threads)
    rows = {}
    for decoder in there:
        alone = timing.spread([images / s for s in times[f"{decoder}: decode"]])
        both = timing.spread([images / s for s in times[f"{decoder}: decode and transform"]])
        rows[decoder] = {
            "decode": alone,
            "decode_and_transform": both,
            "processes_needed": None if needed is None else math.ceil(needed / both["median"]),
        }
    sizes = [path.stat().st_size for path in source.paths]
    return {
        "files": len(source),
        "mean_bytes": sum(sizes) / len(sizes),
        "size": size,
        "rounds": rounds,
        "images_a_turn": images,
        "decoders": rows,
        "missing": missing,
        "model": model,
        "needed_images_per_second": needed,
        "cores": usable_cores(),
    }


def _reader(dataset: ImageDataset, images: int) -> Callable[[int], object]:
    """Read `images` files one after the other; the same draws for every decoder and round."""

    def step(call: int) -> None:
        seed_all(0, call)
        for number in range(images):
            dataset[(call * images + number) % len(dataset)]

    return step


def verdict(row: dict[str, Any]) -> list[str]:
    """Whether the pipeline feeds the model, a sentence for each decoder."""
    needed = row["needed_images_per_second"]
    if needed is None:
        return []
    lines = [f"a training step of {row['model']} takes {needed:.1f} images a second here:"]
    for decoder, one in row["decoders"].items():
        count = one["processes_needed"]
        enough = "feeds it" if count == 1 else "feed it"
        told = f"  {decoder}: {count} process{'' if count == 1 else 'es'} {enough}"
        if count > row["cores"]:
            told += f", more than the {row['cores']} cores here: the model would wait for data"
        lines.append(told)
    return lines
