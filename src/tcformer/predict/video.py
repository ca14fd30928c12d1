"""Videos as frames, in and out; they need the package av."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError, is_installed

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".gif")
"""Files that are read frame by frame."""


def require_av() -> None:
    """Raise `UserError` where the package av, which reads videos, is not installed."""
    if not is_installed("av"):
        raise UserError(
            "videos are read by the package av, which is not installed: "
            "pip install 'tcformer[pose]'."
        )


class DamagedVideoError(UserError):
    """A video that cannot be decoded to its end, or that has no frames."""


class Video:
    """The frames of a video file, (H, W, 3) uint8, one after the other, in constant memory.

    Raises:
        UserError: the package av is not installed, or the file is no video.
        DamagedVideoError: while it is read.
    """

    def __init__(self, path: Path) -> None:
        require_av()
        import av

        self.path = path
        self._errors = (av.error.FFmpegError, ValueError, IndexError, OSError)
        try:
            self._file = av.open(str(path))
            self._stream = self._file.streams.video[0]
        except self._errors as error:
            raise UserError(f"{path} cannot be read as a video: {_short(error)}.") from None
        self.rate = Fraction(self._stream.average_rate or 25)
        self.frames = self._stream.frames or None  # what the file says, if it does

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        frame = None
        try:
            for frame in self._file.decode(self._stream):
                pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                # As players show it: telephones write portraits lying, with a note to turn them.
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                yield np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
        except self._errors as error:
            raise DamagedVideoError(f"{self.path} is a damaged video: {_short(error)}.") from None
        if frame is None:
            raise DamagedVideoError(f"{self.path} holds no frames.")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class VideoWriter:
    """Frames into an MP4 file, which takes its name only when it is whole.

    `rate` counts frames a second. Raises `UserError` where the file cannot be written.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        import av

        self.path, self._part = path, path.with_name(f".{path.stem}.part.mp4")
        self._errors = (av.error.FFmpegError, OSError)
        # The format counts time in whole parts of a second, 65,535 of them at most.
        rate = min(rate, Fraction(1000))
        self._rate = rate.limit_denominator(max(1, int(65535 / rate)))
        self._stream: Any = None
        with self._told():
            self._file = av.open(str(self._part), "w")

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame, (H, W, 3) uint8; the first one decides the size."""
        import av

        if self._stream is None:
            # The format wants even sides.
            height, width = (max(2, side - side % 2) for side in frame.shape[:2])
            self._stream = self._file.add_stream("mpeg4", rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.bit_rate = 8 * width * height
        height, width = self._stream.height, self._stream.width
        low, narrow = max(0, height - frame.shape[0]), max(0, width - frame.shape[1])
        full = np.pad(frame, [(0, low), (0, narrow), (0, 0)]) if low or narrow else frame
        even = np.ascontiguousarray(full[:height, :width])
        with self._told():
            self._encode(av.VideoFrame.from_ndarray(even, format="rgb24"))

    def finish(self) -> None:
        """Write what is left and give the file its name."""
        with self._told():
            if self._stream is not None:
                self._encode(None)
            self._file.close()
            self._part.replace(self.path)

    def abandon(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(*self._errors):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._file.mux(packet)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise UserError(f"cannot write {self.path}: {_short(error)}.") from None


def _short(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".")[:120] or type(error).__name__
