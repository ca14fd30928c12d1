"""A drawn scene and maps such as four stages make, for tests of pictures; no network involved."""

import numpy as np


def procedural_scene(height=30, width=45):
    """A sun over a hill: smooth and sharp parts, sides that are no multiples of 4."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([60 + 2 * y, 120 + y, 230 - 3 * y], axis=-1)
    image[(y - 8) ** 2 + (x - 33) ** 2 < 36] = (250, 210, 60)
    image[y > 20 + ((x - 15) ** 2) // 60] = (40, 130, 50)
    return image.astype(np.uint8)


def nested_maps(height=30, width=45):
    """Every token lies in one of the next stage; not all are connected."""
    rows, columns = -(-height // 4), -(-width // 4)
    i, j = np.mgrid[:rows, :columns]
    second = (i // 2) * columns + j // 2
    pairs = 1 + (i // 2 + j // 2) % 2
    maps = [
        i * columns + j,
        second,
        np.where(i < 2, 0, 1 + second),
        np.where((i < 2) | ((i > 5) & (j < 4)), 0, pairs),
    ]
    # Numbers without gaps, as those of a network.
    return [np.unique(m, return_inverse=True)[1].reshape(rows, columns) for m in maps]
