"""Load a pose network to use it, and find the people of a picture."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tcformer.data.keypoints import LAYOUTS, Layout, layout
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.data.keypoints.crop import Crop
from tcformer.data.keypoints.dataset import cut
from tcformer.errors import UserError
from tcformer.models import TCFormer
from tcformer.models.heads import STRIDE, TopDownPose
from tcformer.runtime.devices import choose_device
from tcformer.runtime.launcher import LaunchEnvironment
from tcformer.tokens import Tokens
from tcformer.weights.load import WeightsFile, load_checkpoint, open_weights
from tcformer.weights.metadata import size_note
from tcformer.zoo import create_model

__all__ = ["Person", "PoseEstimator", "find_heatmaps", "load_pose"]

LARGEST_CROP = 2048
"""Pixels on a side; the published networks see 384 at most."""

_HEAD = "keypoint_head.final_layer.weight"


class Person(NamedTuple):
    """One person (or face) in a picture."""

    box: NDArray[np.float64]  # (4,) x, y, width, height, as given
    points: NDArray[np.float64]  # (K, 2) x and y in pixels of the picture
    scores: NDArray[np.float64]  # (K,) heights of the peaks; zero or less: not found
    crop: Crop  # what the network saw
    box_score: float


@dataclass(frozen=True)
class PoseEstimator:
    """A pose network in evaluation mode with what belongs to it.

    Attributes:
        network: from crops to heat maps, on `device`.
        name: of its backbone's variant.
        layout: its keypoints.
        codec: cuts and decodes.
        device: where it runs.
        notes: what a person should know, sentences without their full stops.
    """

    network: TopDownPose
    name: str
    layout: Layout
    codec: HeatmapCodec
    device: torch.device
    notes: tuple[str, ...] = ()

    def __call__(
        self,
        picture: NDArray[np.uint8],
        boxes: Any = None,
        *,
        box_scores: Sequence[float] | None = None,
        flip_test: bool = True,
        batch_size: int = 16,
    ) -> list[Person]:
        """Find the keypoints of people.

        Args:
            picture: (H, W, 3) uint8.
            boxes: (N, 4) x, y, width and height in pixels, one person each; None is one person who
                fills the picture.
            box_scores: N; 1 each by default.
            flip_test: average with the mirrored crops, as in published numbers; twice the time.
            batch_size: people at once.

        Raises:
            UserError: a box has no area or is not finite, boxes and scores are not as many, or the
                network gives what is not a number.
        """
        height, width = picture.shape[:2]
        where = _boxes([[0, 0, width, height]] if boxes is None else boxes)
        sure = [1.0] * len(where) if box_scores is None else list(box_scores)
        if len(sure) != len(where):
            raise UserError(
                f"each box needs one score, but {len(sure)} are given for {len(where)}."
            )
        try:
            crops = [self.codec.crop(box) for box in where]
        except ValueError as error:
            raise UserError(f"{error}") from None
        image = Image.fromarray(picture)
        people: list[Person] = []
        for first in range(0, len(crops), batch_size):
            some = crops[first : first + batch_size]
            inputs = torch.stack([cut(image, crop, self.codec) for crop in some]).to(self.device)
            heatmaps = self.heatmaps(inputs, flip_test=flip_test)
            require_finite(heatmaps)
            found = zip(*self.codec.decode(heatmaps, some), some, strict=True)
            for n, (points, scores, crop) in enumerate(found, first):
                people.append(Person(where[n], points, scores, crop, float(sure[n])))
        return people

    def heatmaps(self, inputs: Tensor, *, flip_test: bool) -> Tensor:
        """Crops (B, 3, H, W), normalized, to heat maps (B, K, H/4, W/4) float32."""
        return find_heatmaps(self.network, inputs, self.codec, self.layout, flip_test=flip_test)

    def tokens(self, picture: NDArray[np.uint8], person: Person) -> list[Tokens]:
        """The backbone's tokens of the crop of one person."""
        inputs = cut(Image.fromarray(picture), person.crop, self.codec)[None].to(self.device)
        with torch.inference_mode():
            return cast(TCFormer, self.network.backbone).forward_tokens(inputs)


def _boxes(given: Any) -> NDArray[np.float64]:
    """Read boxes (N, 4) as a caller gives them; refuse rows of another length."""
    try:
        boxes = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        boxes = np.zeros(1)  # no numbers, or rows of different lengths
    if not boxes.size:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError("boxes are rows of four numbers each: x, y, width and height in pixels.")
    return boxes


def find_heatmaps(
    network: nn.Module,
    inputs: Tensor,
    codec: HeatmapCodec,
    kind: Layout,
    *,
    flip_test: bool,
    autocast: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Tensor:
    """The heat maps (B, K, H/4, W/4) float32 of normalized crops (B, 3, H, W).

    `flip_test` averages with the mirrored crops: `kind` knows which keypoints these swap, and
    `codec` how their heat maps are brought into line. `autocast` gives the context of each pass.
    """
    with torch.inference_mode():
        with autocast():
            heatmaps = network(inputs)
        heatmaps = heatmaps.float()
        if not flip_test:
            return heatmaps
        with autocast():
            mirrored = network(inputs.flip(-1))
        mirror = torch.from_numpy(kind.mirror.copy())
        return codec.average_with_mirrored(heatmaps, mirrored.float(), mirror)


def require_finite(heatmaps: Tensor) -> None:
    """Refuse heat maps in which no keypoint can be found.

    Raises:
        UserError: they hold NaN or infinity.
    """
    if not heatmaps.isfinite().all():
        raise UserError(
            "the network's heat maps are not finite numbers: its weights are damaged, or its "
            "training went astray."
        )


def load_pose(
    checkpoint: str | os.PathLike[str],
    *,
    crop_size: tuple[int, int] | None = None,
    codec: str | None = None,
    ema: bool | None = None,
    device: str = "cpu",
) -> PoseEstimator:
    """Load a pose network.

    Args:
        checkpoint: what training wrote (best.safetensors, checkpoint.pth), or a file in the layout
            of the released ones. Those say nothing of themselves: their sizes are read from the
            weights, and the crop is taken to be that of `usual_size`.
        crop_size: height and width of the network's input; None is what the file says.
        codec: "classic", "dark" or "udp"; None is what the file says, or "classic".
        ema: whether to take the averaged weights; None takes them where there are some.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" for a GPU if there is one.

    Raises:
        UserError: the file cannot be read or holds no pose network, or an option does not fit.
    """
    file = open_weights(checkpoint, ema)
    about, entries = file.metadata, file.metadata.entries
    if _HEAD not in file.translated.whole:
        raise UserError(
            f"{checkpoint} holds no pose network ({_HEAD} is not in it); train one with "
            "`tcformer train configs/wholebody/tcformer_256x192.py`, or give a released one"
        )
    notes = file.notes
    kind = _layout(file)
    network, name = _network(file, len(kind))
    size = crop_size or (about.trained_at if "crop_size" in entries else None)
    if size is None:
        size = usual_size(kind, name)
        notes.append(
            f"{checkpoint} does not say what it was trained on; {size[0]} x {size[1]} px is "
            "assumed (--crop-size)"
        )
    height, width = size
    if min(size) < 32 or max(size) > LARGEST_CROP or height % STRIDE or width % STRIDE:
        raise UserError(
            f"a crop of {height} x {width} is not possible: both sides must be multiples of "
            f"{STRIDE}, from 32 to {LARGEST_CROP} pixels"
        )
    if crop_size is not None:
        notes += size_note(about.trained_at, height, width)
    method = codec or str(entries.get("codec", "classic"))
    if codec is not None and codec != entries.get("codec", codec):
        notes.append(f"trained with the codec {entries['codec']}, and now it is {codec}")
    sigma = _number(entries.get("heatmap_sigma"), 2.0)
    try:
        made = HeatmapCodec((width, height), (width // STRIDE, height // STRIDE), sigma, method)
    except ValueError as error:
        raise UserError(f"{error}") from None
    where = choose_device(device, LaunchEnvironment())
    return PoseEstimator(network.to(where).eval(), name, kind, made, where, tuple(notes))


def usual_size(kind: Layout, name: str) -> tuple[int, int]:
    """Height and width of the crops that the published network of a backbone was trained on."""
    if kind.norm:
        return 256, 256
    return (384, 288) if name == "tcformer_large" else (256, 192)


def _layout(file: WeightsFile) -> Layout:
    name, keypoints = file.metadata.entries.get("keypoints"), _rows(file, _HEAD)
    fitting = [n for n in LAYOUTS if len(layout(n)) == keypoints]
    if not fitting:
        known = ", ".join(f"{len(layout(n))} ({n})" for n in LAYOUTS)
        raise UserError(f"{file.source} finds {keypoints} keypoints; known sets have {known}")
    return layout(str(name) if name in fitting else fitting[0])


def _number(value: Any, default: float) -> float:
    with contextlib.suppress(TypeError, ValueError):
        if math.isfinite(float(value)):
            return float(value)
    return default


def _rows(file: WeightsFile, key: str) -> int:
    """The length of a parameter's first axis."""
    weights = file.translated.whole
    if key not in weights or not weights[key].ndim:
        what = "is a single number" if key in weights else "is not in it"
        raise UserError(f"{file.source} holds no pose network of ours: {key} {what}")
    return len(weights[key])


def _network(file: WeightsFile, keypoints: int) -> tuple[TopDownPose, str]:
    """The network that the weights are of, with them loaded, and its backbone's name."""
    where, entries, weights = file.source, file.metadata.entries, file.translated.whole
    name = str(entries.get("model") or (file.architecture and file.architecture.name) or "")
    if not name:
        raise UserError(f"{where}: the sizes of its backbone are those of no variant")
    channels = _rows(file, "neck.lateral_convs.0.conv.bias")
    hidden = _rows(file, "neck.merge_blocks.0.mlp.fc1.bias")
    # How the neck reduces its keys shows in the parameters that this needs.
    ways = {"sr": "conv", "gather": "cluster_linear", "norm": "cluster_norm"}
    known = (ways[key] for key in ways if f"neck.merge_blocks.0.attn.{key}.weight" in weights)
    try:
        network = TopDownPose(
            create_model(name, num_classes=0, **file.merging),
            keypoints,
            neck_channels=channels,
            neck_heads=int(_number(entries.get("neck_heads"), 4)),
            neck_mlp_ratio=hidden / channels,
            reduction=str(entries.get("neck_reduction") or next(known, "pool")),
        )
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{where} does not fit the network it seems to be of: {first}") from error
    load_checkpoint(network, weights, where=where)
    return network, name
