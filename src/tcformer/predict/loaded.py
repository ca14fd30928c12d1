"""Load a network to use it: evaluation mode, its weights, its preprocessing, its class names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from tcformer.errors import UserError
from tcformer.images import LEAST_SIDE
from tcformer.models import TCFormer
from tcformer.models.sizes import V1, V2, VARIANTS
from tcformer.predict.classes import class_names
from tcformer.predict.predict import Prediction, predict_each
from tcformer.predict.preprocess import Preprocessing
from tcformer.predict.sources import Picture, is_one
from tcformer.runtime.devices import choose_device
from tcformer.runtime.launcher import LaunchEnvironment
from tcformer.weights.load import load_checkpoint, open_weights
from tcformer.weights.metadata import Metadata, size_note
from tcformer.weights.remap import Architecture
from tcformer.zoo import create_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tcformer.tokens import Tokens

__all__ = ["DEFAULT_MODEL", "Loaded", "load"]

OnePicture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor | Picture

DEFAULT_MODEL = "tcformer_light"
MOST_INPUT = 4096


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode with what belongs to it.

    Attributes:
        network: the classifier, or the backbone alone (`task`), on `device`.
        name: what it is called, such as "tcformer_light".
        task: "classification"; "segmentation", "pose" and "detection" for the backbone of such a
            model; "features" for a backbone without classifier.
        preprocessing: from a picture to its input.
        classes: the name of each class, never fewer than the scores; empty without classifier.
        notes: what a person should know, each a sentence without its full stop, such as that the
            weights are random.
        source: the file, folder or address of the weights; None when they are random.
        epoch: the epoch the weights are from, where the file says it.
        named: whether the names of the classes came with the weights.
        device: where the network computes.
        recorded: the names of the classes as the weights have them, most often those of the folders
            they were trained on; `classes` has words for ImageNet's. Empty where not `named`.
        left_out: the parts of the file's network besides the backbone and its classifier, such as
            a neck and a head; they are not in `network`.
        trained_at: height and width of the input in training, pixels, where the file says it.
    """

    network: nn.Module = field(repr=False)
    name: str
    task: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    source: str | None = None
    epoch: int | None = None
    named: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    recorded: tuple[str, ...] = field(default=(), repr=False)
    left_out: tuple[str, ...] = ()
    trained_at: tuple[int, int] | None = None

    @property
    def num_classes(self) -> int:
        """Number of scores; 0 without a classifier."""
        return len(self.classes)

    @property
    def merges(self) -> bool:
        """Whether it has tokens to look at: timm's other networks merge none."""
        return isinstance(self.network, TCFormer)

    @property
    def backbone(self) -> TCFormer:
        """The network, if it has tokens to look at.

        Raises:
            UserError: it is another of timm's networks, which merge no tokens.
        """
        if not isinstance(self.network, TCFormer):
            raise UserError(f"{self.name} merges no tokens, so it has none to look at")
        return self.network

    @overload  # a string is an iterable too, but the first that fits is meant
    def predict(  # type: ignore[overload-overlap]
        self, images: OnePicture, *, topk: int | None = ..., amp: str = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: Iterable[Any], *, topk: int | None = ..., amp: str = ...
    ) -> list[Prediction]: ...

    def predict(
        self, images: Any, *, topk: int | None = None, amp: str = "off"
    ) -> Prediction | list[Prediction]:
        """Predict the classes of a picture, or of each of several.

        Args:
            images: a path, the bytes of a file, a PIL image, an array (H, W, 3) of uint8 (or
                (H, W), (H, W, 4); tensors may have their channels first); or a list or another
                iterable of these.
            topk: number of classes, the most probable first; None for 5, or all of fewer.
            amp: "off", "bf16" or "fp16".

        Returns:
            A `Prediction`, or a list of them in the order of the pictures. `predict_each` makes
            no list, and reads folders.

        Raises:
            UserError: a picture cannot be read, or there is no classifier.
        """
        if is_one(images):
            return next(predict_each(self, images, topk=topk, amp=amp, workers=0))
        if isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", 0) == 4:
            raise UserError("predict takes single pictures or a list; predict_each takes folders")
        return list(predict_each(self, images, topk=topk, amp=amp))

    def predict_each(self, images: Any, **options: Any) -> Iterator[Prediction]:
        """Predict one picture after the other, in constant memory, however many there are.

        Args:
            images: what `predict` takes, folders (images below them, in the order of their
                paths), batches (B, H, W, 3), and any iterable of these.
            **options: those of `tcformer.predict.predict_each`: `topk`, `batch_size`,
                `workers`, `amp`, and `unreadable`, a function that is told the name of a picture
                that cannot be read, and why, instead of a UserError.
        """
        return predict_each(self, images, **options)

    def refuse_left_out(self, by: str) -> None:
        """Refuse what would hold the backbone alone of a larger network, and not say so.

        Raises:
            UserError: the file has parts, such as a neck and a head, that `by` cannot carry.
        """
        if self.left_out:
            kinds = {"segmentation": "a segmentation model", "pose": "a pose model"}
            kind = {**kinds, "detection": "a detector"}.get(self.task, "a larger network")
            raise UserError(
                f"{self.source} is {kind}, and {by} has no place for its "
                f"{' and '.join(self.left_out)}; give a classifier or a backbone alone"
            )

    def resized(self, input_size: int) -> Loaded:
        """The same network for inputs of another size, pixels."""
        _check_input_size(input_size)
        return replace(self, preprocessing=replace(self.preprocessing, input_size=input_size))

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> Path:
        """Write a folder in timm's hub format; see `tcformer.save_pretrained` for the options."""
        from tcformer.predict.hub import save_pretrained

        return save_pretrained(self, folder, **options)

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Upload to the Hugging Face Hub; see `tcformer.push_to_hub` for the options."""
        from tcformer.predict.hub import push_to_hub

        return push_to_hub(self, repo, **options)

    def tokens(self, picture: NDArray[np.uint8]) -> list[Tokens]:
        """The tokens of each stage for one whole picture, (H, W, 3) uint8 of any size."""
        with torch.inference_mode():
            return self.backbone.forward_tokens(
                self.preprocessing.normalize(picture).to(self.device)
            )


def load(
    model: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = False,
    ema: bool | None = None,
    input_size: int | None = None,
    device: str | torch.device = "cpu",
    threads: int = 0,
) -> Loaded:
    """Load a network to use it.

    Args:
        model: a variant such as "tcformer_light" (or a model of timm's). None takes what the
            checkpoint is of, or tcformer_light without a checkpoint. With both, the weights must
            fit, and tokens are merged as `model` says. A path alone is taken for `checkpoint`.
        checkpoint: a file of weights: this package's safetensors or training checkpoints, or the
            authors'; an http(s) address of one; a folder in timm's hub format, or "hf-hub:" and a
            repository. Of the checkpoint of a segmentation (or pose) model the backbone is loaded.
        pretrained: the weights the authors published for `model`, fetched once and kept.
        ema: True for the averaged weights of a training checkpoint, False for the last ones; None
            for the averaged ones where the file has them, which are what training evaluates.
        input_size: side of the square input in pixels; None is what the checkpoint was trained
            with, or 224.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" for a GPU if there is one.
        threads: CPU threads of this process; 0 leaves torch's choice.

    Returns:
        The network in evaluation mode, its preprocessing and its class names. Without weights it
        has reproducible random ones, and a note says so.

    Raises:
        UserError: no such model, file or device, or they do not fit together.
    """
    if model is not None and _is_place(model):
        if checkpoint is not None or pretrained:
            raise UserError(f"{model} is no name of a model, so no other weights can be given")
        model, checkpoint = None, model
    name = None if model is None else str(model)
    where = choose_device(str(device), LaunchEnvironment())
    cores = os.cpu_count() or 1
    if not 0 <= threads <= cores:
        raise UserError(
            f"--threads is {threads}, but this machine has {cores} cores; 0 leaves torch's choice"
        )
    if threads:
        torch.set_num_threads(threads)
    if input_size is not None:
        _check_input_size(input_size)
    if pretrained:
        from tcformer.weights.released import pretrained_path

        if checkpoint is not None:
            raise UserError(
                f"the published weights are asked for and those of {checkpoint} too: choose one"
            )
        checkpoint = pretrained_path(name or DEFAULT_MODEL)
    loaded = _random(name) if checkpoint is None else _trained(name, checkpoint, ema)
    if input_size is not None:
        notes = size_note(loaded.trained_at, input_size, input_size)
        loaded = replace(loaded.resized(input_size), notes=(*loaded.notes, *notes))
    return replace(loaded, network=loaded.network.to(where), device=where)


def _is_place(text: str | os.PathLike[str]) -> bool:
    """Whether this is meant as a place of weights, not as the name of a model."""
    if not isinstance(text, str):
        return True
    return text not in VARIANTS and (
        "/" in text
        or os.sep in text
        or text.startswith(("hf-hub:", "local-dir:"))
        or text.endswith((".safetensors", ".pth", ".pt", ".tar", ".bin"))
        or os.path.exists(text)
    )


def _check_input_size(size: int) -> None:
    if not LEAST_SIDE <= size <= MOST_INPUT:
        raise UserError(
            f"the input size is {size}, but {LEAST_SIDE} to {MOST_INPUT} pixels are meant"
        )


def _random(model: str | None) -> Loaded:
    name = model or DEFAULT_MODEL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _create(name, {})
    classes, _ = class_names(None, int(getattr(network, "num_classes", 0)))
    notes = ("no checkpoint is given, so the weights are random",)
    return Loaded(network, name, "classification", Preprocessing(), classes, notes)


def _trained(model: str | None, source: str | os.PathLike[str], ema: bool | None) -> Loaded:
    file = open_weights(source, ema)
    about, found, parts = file.metadata, file.architecture, file.translated.parts
    name = model or _name(about, found)
    # A model that is asked for by name merges as that one does, whatever the weights are used to.
    arguments = {} if model else file.merging
    if found is None:
        channels, weights = about.in_chans or 3, file.checkpoint.state_dict
        heads = getattr(timm.get_pretrained_cfg(name), "classifier", None)
        head = weights.get(f"{heads[0] if isinstance(heads, (list, tuple)) else heads}.weight")
        arguments |= {} if head is None else {"num_classes": len(head)}
    else:
        channels, weights = found.in_chans, file.translated.backbone
        arguments["num_classes"] = found.num_classes or 0
    if channels not in (1, 3):
        raise UserError(
            f"{source} is for images of {channels} channels; only grey and RGB pictures can be read"
        )
    network = _create(name, arguments | {"in_chans": channels})
    load_checkpoint(network, weights, where=str(source))
    count = int(arguments.get("num_classes", 0))
    recorded = about.classes if count else None
    classes, notes = class_names(recorded, count)
    if count and about.input_size is None:
        notes.append("no input size is recorded, so it is taken for 224 pixels")
    named = bool(recorded) and len(recorded or ()) <= count
    if named and about.words and len(about.words) == len(recorded or ()):
        classes = (*about.words, *classes[len(about.words) :])
    others = (_TASKS[part] for part in parts if part in _TASKS)
    return Loaded(
        network,
        name,
        "classification" if count else next(others, "features"),
        Preprocessing(
            about.input_size or 224,
            channels,
            about.mean,
            about.std,
            about.crop_pct,
            about.interpolation or "bicubic",
        ),
        classes,
        tuple(f"{source}: {note}" for note in [*notes, *file.notes]),
        str(source),
        file.checkpoint.epoch,
        named,
        recorded=(recorded or ()) if named else (),
        left_out=tuple(parts),
        trained_at=about.trained_at,
    )


_TASKS = {
    "decode_head": "segmentation",
    "keypoint_head": "pose",
    "roi_heads": "detection",  # of an R-CNN
    "head": "detection",  # of RetinaNet
}
"""What a network is for whose file has such a part besides the backbone."""


def _name(about: Metadata, found: Architecture | None) -> str:
    """The registered name that the file gives, if its weights can be that, else theirs by size."""
    if found is None:
        return about.model if about.model and timm.is_model(about.model) else DEFAULT_MODEL
    if about.model in VARIANTS and about.arguments is not None:
        return about.model  # a folder's sizes may be its own
    if found.name in V1 and about.model == V2[V1.index(found.name)]:
        return about.model  # V2 has the sizes of V1
    return found.name or DEFAULT_MODEL


def _create(name: str, arguments: dict[str, Any]) -> nn.Module:
    create: Any = timm.create_model if timm.is_model(name) else create_model  # which names the near
    try:
        network: nn.Module = create(name, **arguments)
        return network.eval()
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} cannot be built with {arguments}: {error}") from error
