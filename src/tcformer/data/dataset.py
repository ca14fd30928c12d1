"""Map-style data sets over any source of images, and the function that picks the source."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tcformer.data.decode import decode_tensor, pil_to_tensor, require_decoder
from tcformer.data.folder import FolderSource, refuse_different_classes
from tcformer.data.spec import DATA_SETS, DataSpec, unknown_set
from tcformer.errors import UserError, cut
from tcformer.images import UnreadableImageError, decode_rgb, to_rgb

Split = Literal["train", "val"]


class Source(Protocol):
    """Where images come from."""

    classes: list[str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any:
        """An image, and what belongs to it.

        For classification: the encoded bytes (or an image that exists only in memory) and a label.

        Raises:
            OSError, UnreadableImageError: the image cannot be read.
        """
        ...

    def describe(self, index: int) -> str:
        """The file, or file and entry, that a person would look for."""
        ...


class Item(NamedTuple):
    """One sample. `image` is None, and `reason` says why, for a skipped unreadable image."""

    image: Any  # (C, H, W) float32, normalized; without a transform what the decoder returns
    target: Any  # the label, or labels (H, W); -1 where the image was unreadable
    position: int  # in the data set
    reason: str = ""


class SourceDataset(Dataset):
    """Items of a source; subclasses say how an item is loaded and prepared.

    Args:
        source: where the images come from.
        skip_corrupt: whether an unreadable image becomes an `Item` without image, or a UserError.
    """

    def __init__(self, source: Any, *, skip_corrupt: bool = False) -> None:
        self.source, self.skip_corrupt = source, skip_corrupt

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their labels."""
        names: list[str] = self.source.classes
        return names

    def __len__(self) -> int:
        return len(self.source)

    def describe(self, index: int) -> str:
        """The file (or entry) that image `index` comes from."""
        name: str = self.source.describe(index)
        return name

    def load(self, index: int) -> Any:
        """What the source has.

        Raises:
            OSError, UnreadableImageError: the image cannot be read.
        """
        return self.source.read(index)

    @abstractmethod
    def prepare(self, loaded: Any, index: int) -> Item:
        """An item of what `load` returned."""

    def __getitem__(self, index: int) -> Item:
        try:
            loaded = self.load(index)
        except (OSError, UnreadableImageError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if self.skip_corrupt:
                return Item(None, -1, index, reason)
            raise UserError(
                f"Cannot read the image {cut(self.describe(index), 400)}: {reason}; replace the "
                "file, or pass --skip-corrupt to leave such images out and count them."
            ) from None
        return self.prepare(loaded, index)


class ImageDataset(SourceDataset):
    """Images with a label, decoded, converted and transformed.

    Args:
        source: as for `SourceDataset`.
        transform: from `train_transform` or `eval_transform`; None gives the decoded image.
        decoder: "pil" or "torchvision".
        skip_corrupt: as for `SourceDataset`.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Any], Tensor] | None = None,
        *,
        decoder: str = "pil",
        skip_corrupt: bool = False,
    ) -> None:
        require_decoder(decoder)
        super().__init__(source, skip_corrupt=skip_corrupt)
        self.transform, self.decoder = transform, decoder

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Label of each class name."""
        return {name: i for i, name in enumerate(self.classes)}

    def load(self, index: int) -> tuple[Image.Image | Tensor, int]:
        """The decoded image before any transform (RGB PIL, or (3, H, W) uint8), and its label."""
        data, target = self.source.read(index)
        if isinstance(data, Image.Image):
            image = to_rgb(data)
            return (pil_to_tensor(image) if self.decoder == "torchvision" else image), target
        return (decode_tensor(data) if self.decoder == "torchvision" else decode_rgb(data)), target

    def prepare(self, loaded: tuple[Any, int], index: int) -> Item:
        """The transformed image with its label."""
        image, target = loaded
        return Item(image if self.transform is None else self.transform(image), target, index)


def build_dataset(
    spec: DataSpec, split: Split, transform: Callable[[Any], Tensor] | None = None
) -> ImageDataset:
    """Build one split of the data set that `spec` names.

    Unreadable images are skipped in the training split, and in the validation split with
    `spec.skip_corrupt`; otherwise reading one raises a UserError that names the file.

    Args:
        spec: what to read.
        split: `train` or `val`. Only the asked split has to exist.
        transform: from `train_transform` or `eval_transform`; None gives the decoded image.

    Raises:
        UserError: the path, the layout or a package is missing or wrong; one sentence.
    """
    if split not in ("train", "val"):
        raise UserError(f"There is no split {split!r}: use train or val.")
    source = _source(spec, split)
    if len(source) == 0:
        raise UserError(f"The {split} split of {spec.data_set} at {spec.data_path} has no images.")
    skip = spec.skip_corrupt or split == "train"
    return ImageDataset(source, transform, decoder=spec.decoder, skip_corrupt=skip)


def _source(spec: DataSpec, split: Split) -> Source:
    name = spec.data_set
    if name == "IMNET":
        return FolderSource(spec.data_path, split)
    if name in ("CIFAR", "CIFAR10"):
        from tcformer.data.cifar import cifar_source

        return cifar_source(spec.data_path, split, classes=100 if name == "CIFAR" else 10)
    if name in ("INAT", "INAT19"):
        from tcformer.data.inat import INatSource

        year = 2018 if name == "INAT" else 2019
        return INatSource(spec.data_path, split, year=year, category=spec.inat_category)
    if name == "digits":
        from tcformer.data.builtin import DigitsSource

        return DigitsSource(split)
    if name == "fake":
        from tcformer.data.builtin import FakeSource

        return FakeSource(split, images=spec.fake_images, classes=spec.fake_classes)
    if not name.startswith("timm:"):
        raise unknown_set(name, DATA_SETS, "classification")
    from tcformer.data.from_timm import timm_source

    return timm_source(name.removeprefix("timm:"), spec.data_path, split)


def require_same_classes(train: ImageDataset, val: ImageDataset) -> None:
    """Refuse to train on one set of classes and to validate on another.

    Sets whose classes are bare numbers may lack the highest ones in validation.

    Raises:
        UserError: the class names or their order differ; names the first difference.
    """
    names = val.classes
    if getattr(val.source, "numbered", False) and names == train.classes[: len(names)]:
        return
    refuse_different_classes(train.classes, names)
