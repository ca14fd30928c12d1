"""What `tcformer pose` is given: pictures, videos, and where people are in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcformer.data.keypoints.annotations import check_number, check_numbers, read_json
from tcformer.errors import UserError

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".gif")
"""Files that are read frame by frame."""

DETECTOR = "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"
"""torchvision's weights of its detector, by the name under which it keeps them."""


class Boxes(NamedTuple):
    """Where the people of one picture are."""

    boxes: NDArray[np.float64]  # (N, 4) x, y, width, height
    scores: tuple[float, ...]


def read_boxes(path: str) -> Mapping[str, Boxes]:
    """Boxes by the name of the picture, from a file.

    Either a list of objects with `file_name`, `bbox` (x, y, width, height in pixels) and, if
    wanted, `score`; or annotations in COCO's format, whose `images` give the names.

    Raises:
        UserError: it is neither, or a box is wrong.
    """
    content = read_json(path, "a file of boxes")
    names: dict[Any, Any] = {}
    entries = content
    if isinstance(content, dict):
        entries = content.get("annotations")
        images = content.get("images")
        if isinstance(images, list):
            names = {i.get("id"): i.get("file_name") for i in images if isinstance(i, dict)}
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{path} holds no boxes: it needs a list of objects with `file_name` and `bbox`, or "
            "COCO's annotations."
        )
    found: dict[str, list[tuple[list[float], float]]] = {}
    for number, entry in enumerate(entries):
        where = f"box {number} of {path}"
        check_numbers(entry, "bbox", 4, where)
        name = entry.get("file_name", names.get(entry.get("image_id")))
        if not isinstance(name, str) or not name:
            raise UserError(f"{where} does not say which picture it is in: give `file_name`.")
        if min(entry["bbox"][2:]) <= 0:
            raise UserError(f"{where} has no area: {entry['bbox']}.")
        score = check_number(entry, "score", where) if "score" in entry else 1.0
        found.setdefault(Path(name).name, []).append((entry["bbox"], score))
    return {
        name: Boxes(np.array([box for box, _ in rows], np.float64), tuple(s for _, s in rows))
        for name, rows in found.items()
    }


class Detector:
    """torchvision's Faster R-CNN, asked for people.

    Args:
        weights: file of its weights; None looks where torchvision keeps what it has fetched.
        threshold: people below this score are left out.

    Raises:
        UserError: the weights are not there, or not those of this detector.
    """

    def __init__(self, weights: str | None, threshold: float) -> None:
        import torch
        from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2

        from tcformer.files import safe_torch_load

        kept = Path(torch.hub.get_dir()) / "checkpoints" / DETECTOR
        file = Path(weights) if weights else kept
        if not file.is_file():
            raise UserError(
                f"the detector needs torchvision's weights, but {file} does not exist: fetch "
                f"https://download.pytorch.org/models/{DETECTOR} and give it as "
                "--detector-weights, or give boxes with --boxes FILE, or leave --detect out to "
                "take each picture as one person."
            )
        self.network = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
        try:
            self.network.load_state_dict(safe_torch_load(file))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} does not hold the weights of torchvision's fasterrcnn_resnet50_fpn_v2."
            ) from error
        self.threshold = threshold

    def __call__(self, picture: NDArray[np.uint8]) -> Boxes:
        """The people of a picture (H, W, 3) uint8, best first."""
        import torch

        with torch.inference_mode():
            pixels = torch.tensor(picture).permute(2, 0, 1).float() / 255
            found = self.network([pixels])[0]
        good = (found["labels"] == 1) & (found["scores"] >= self.threshold)
        corners = found["boxes"][good].double().numpy()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        sides = (boxes[:, 2:] > 0).all(axis=1)
        scores = found["scores"][good].numpy()[sides]
        return Boxes(boxes[sides], tuple(float(s) for s in scores))


class Video:
    """The frames of a video file, one after the other, in constant memory.

    Raises:
        UserError: the package av is not installed, or the file is no video.
    """

    def __init__(self, path: Path) -> None:
        try:
            import av
        except ImportError:
            raise UserError(
                f"{path} is a video, which the package av reads: pip install 'tcformer[pose]'."
            ) from None
        self.path = path
        self._errors = (av.error.FFmpegError, ValueError, IndexError, OSError)
        try:
            self._file = av.open(str(path))
            self._stream = self._file.streams.video[0]
        except self._errors as error:
            raise UserError(f"{path} cannot be read as a video: {_short(error)}.") from None
        rate = self._stream.average_rate
        self.rate = float(rate) if rate else 25.0
        self.frames = self._stream.frames or None  # what the file says, if it does

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        try:
            for frame in self._file.decode(self._stream):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        except self._errors as error:
            raise UserError(f"{self.path} is a damaged video: {_short(error)}.") from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class VideoWriter:
    """Frames into an MP4 file, which takes its name only when it is whole.

    Args:
        path: the file.
        rate: frames a second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        import av

        self.path, self._part = path, path.with_name(f".{path.stem}.part.mp4")
        self._file = av.open(str(self._part), "w")
        self._stream: Any = None
        self._rate = rate

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame, (H, W, 3) uint8; the first one decides the size."""
        import av

        height, width = (side - side % 2 for side in frame.shape[:2])  # the format wants even sides
        if self._stream is None:
            self._stream = self._file.add_stream("mpeg4", rate=round(self._rate))
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.bit_rate = 8 * width * height
        even = np.ascontiguousarray(frame[:height, :width])
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
            self._file.mux(packet)

    def finish(self) -> None:
        """Write what is left and give the file its name."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._file.mux(packet)
        self._file.close()
        self._part.replace(self.path)

    def abandon(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def _short(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:120] or type(error).__name__
