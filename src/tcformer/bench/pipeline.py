"""Images a second of the input pipeline in one process, and how many processes feed a model."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tcformer.bench import inputs
from tcformer.data.dataset import ImageDataset
from tcformer.data.decode import require_decoder
from tcformer.data.seeding import seed_all
from tcformer.data.spec import DECODERS, TransformSpec
from tcformer.data.transforms import train_transform
from tcformer.drawn import photograph
from tcformer.errors import UserError
from tcformer.processor import usable_cores
from tcformer.runtime import timing

NUM_DRAWN = 24
DRAWN_SIZE = (500, 375)
"""Width and height of the drawn files, in pixels: the middle of ImageNet's."""

JPEG_QUALITY = 90
MOST_FILES = 256


class Files:
    """Image files as a source of `ImageDataset`."""

    classes = ("image",)

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

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
        width, height = DRAWN_SIZE
        paths = [Path(place, f"{seed:03}.jpg") for seed in range(NUM_DRAWN)]
        for seed, path in enumerate(paths):
            image = Image.fromarray(photograph(seed, max(width, height))[:height, :width])
            image.save(path, quality=JPEG_QUALITY)
        yield Files(paths)


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
        rounds: turns of each decoder, of so many `images`.
        images: images a turn.
        needed: images a second that the model takes in training, if that is known.
        model: its name.

    Returns:
        A row of the record: for each decoder the images a second of decoding alone and of decoding
        with the training transform, and the processes that would feed the model.

    Raises:
        UserError: a file cannot be read as an image.
    """
    steps: dict[str, timing.Step] = {}
    missing: dict[str, str] = {}
    whole = train_transform(TransformSpec(input_size=size))
    for decoder in DECODERS:
        try:
            require_decoder(decoder)
        except UserError as reason:
            missing[decoder] = str(reason)
            continue
        for kind, transform in (("decode", None), ("decode_and_transform", whole)):
            dataset = ImageDataset(source, transform, decoder=decoder)  # type: ignore[arg-type]
            steps[f"{decoder} {kind}"] = partial(_read, dataset, images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cpu = torch.device("cpu")
        times = timing.interleaved(steps, device=cpu, rounds=rounds, warmup=0, turn=0.0)
    finally:
        torch.set_num_threads(threads)
    rows: dict[str, Any] = {}
    for name, seconds in times.items():
        decoder, _, kind = name.partition(" ")
        rows.setdefault(decoder, {})[kind] = timing.spread([images / s for s in seconds])
    for row in rows.values():
        speed = row["decode_and_transform"]["median"]
        row["processes_needed"] = None if needed is None else math.ceil(needed / speed)
    return {
        "files": len(source),
        "mean_bytes": sum(path.stat().st_size for path in source.paths) / len(source),
        "size": size,
        "rounds": rounds,
        "images_a_turn": images,
        "decoders": rows,
        "missing": missing,
        "model": model,
        "needed_images_per_second": needed,
        "cores": usable_cores(),
    }


def _read(dataset: ImageDataset, images: int, call: int) -> None:
    """Read `images` files one after the other; the same draws for every decoder and round."""
    seed_all(0, call)
    for number in range(images):
        dataset[(call * images + number) % len(dataset)]
