"""Networks in timm's hub format: a folder, or a repository on the Hugging Face Hub.

The format is two files, `config.json` and `model.safetensors`, and a model card, `README.md`.
`timm.create_model("local-dir:FOLDER", pretrained=True)` reads it, and so do transformers and
`tcformer.load`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import nn

from tcformer.errors import UserError, cut
from tcformer.files import atomic_write, check_writable, staging
from tcformer.predict.card import model_card
from tcformer.predict.preprocess import Preprocessing
from tcformer.training.record import TRAINING, read_record
from tcformer.weights.metadata import CONFIG, WEIGHTS, as_text, merging_of, save_weights
from tcformer.weights.released import plain_hub_errors

if TYPE_CHECKING:
    from tcformer.predict.loaded import Loaded

__all__ = ["CARD", "push_to_hub", "record_beside", "save_pretrained"]

CARD = "README.md"


def save_pretrained(
    model: nn.Module | Loaded,
    folder: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    input_size: int | None = None,
    record: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    name: str | None = None,
    repo: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network as a folder in timm's hub format, and read it back to be sure.

    Args:
        model: one of ours or of timm's, or what `tcformer.load` returned, which knows its classes
            and its preprocessing.
        folder: the folder to write; it is created.
        classes: names of the classes; None takes what `model` knows.
        input_size: side of the square input it is for, pixels; None takes what `model` knows.
        record: of the training (`record.json`), from which the model card is written.
        name: what the model is called in its card; None for the folder's name.
        repo: "user/name" on the Hub, for the card, where it is known.
        license: of the weights, as the Hub names it ("mit", "apache-2.0"); None leaves it out.
        overwrite: replace the files of an earlier save.

    Returns:
        The folder.

    Raises:
        UserError: there are such files in the folder, it cannot be written, or the network is not
            one that timm can build by name.
    """
    if isinstance(model, nn.Module):
        loaded: Any = _bare(model, input_size)
    else:
        model.refuse_left_out("timm's hub format")
        loaded = model if input_size is None else model.resized(input_size)
    folder = Path(folder)
    config = _config(loaded, classes)
    told = read_record(Path(record)) if isinstance(record, (str, os.PathLike)) else record
    taken = [file for file in (CONFIG, WEIGHTS, CARD) if os.path.lexists(folder / file)]
    if taken and not overwrite:
        raise UserError(
            f"{folder} holds a {taken[0]} already; name another folder, or say that it is to be "
            "replaced (--force, overwrite=True)"
        )
    for file in (CONFIG, WEIGHTS, CARD):
        check_writable(folder / file)
    title = name or folder.resolve().name
    card = model_card(config, told, name=title, repo=repo, license=license, epoch=loaded.epoch)
    # Without the configuration nobody takes the folder for a model.
    with staging(folder, last=CONFIG) as scratch:
        save_weights(loaded.network, scratch / WEIGHTS, _header(loaded.preprocessing, config))
        _write(scratch / CARD, card)
        _write(scratch / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        _read_back(loaded.network, scratch, config["architecture"])
    return folder


def push_to_hub(
    model: nn.Module | Loaded,
    repo: str,
    *,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str = "Add model",
    **options: Any,
) -> str:
    """Upload a network to the Hugging Face Hub in timm's format.

    A repository that does not exist is created. A model card that is there already stays.

    Args:
        model: as for `save_pretrained`.
        repo: "user/name".
        private: whether a new repository is private.
        token: with the right to write; None takes what `hf auth login` or HF_TOKEN gave.
        revision: branch to write to; None for the main one.
        message: of the commit.
        **options: `classes`, `input_size`, `record`, `name`, `license` of `save_pretrained`.

    Returns:
        The address of the repository.

    Raises:
        UserError: no network, no or another's token, a bad name, or as `save_pretrained`.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory(prefix="tcformer-hub-") as temporary:
        options = {"name": repo.rpartition("/")[2], **options, "repo": repo}
        folder = save_pretrained(model, Path(temporary) / "model", **options)
        with plain_hub_errors(repo):
            api = HfApi(token=token, library_name="tcformer")
            made = api.create_repo(repo, private=private, exist_ok=True)
            if api.file_exists(made.repo_id, CARD, revision=revision):
                (folder / CARD).unlink()
            api.upload_folder(
                repo_id=made.repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=message,
            )
    return str(made)


def record_beside(source: str | os.PathLike[str] | None) -> Path | None:
    """The record of the training that a file of weights lies beside, if there is one."""
    path = None if source is None else Path(source).parent / TRAINING
    return path if path is not None and path.is_file() else None


def _bare(network: nn.Module, input_size: int | None) -> SimpleNamespace:
    """What `Loaded` tells of a network, as far as the network says it itself."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    channels, side = cfg.get("input_size", (3, 224, 224))[::2]
    channels = getattr(network, "in_chans", channels)
    mean, std = (tuple(cfg.get(key) or ()) for key in ("mean", "std"))
    stated = mean and std and len(mean) == channels
    shape = Preprocessing(
        input_size or side,
        channels,
        mean if stated else None,
        std if stated else None,
        interpolation=cfg.get("interpolation", "bicubic"),
    )
    count = int(getattr(network, "num_classes", 0))
    return SimpleNamespace(
        network=network, preprocessing=shape, num_classes=count, named=False, epoch=None
    )


def _config(loaded: Any, classes: Sequence[str] | None) -> dict[str, Any]:
    network, shape, count = loaded.network, loaded.preprocessing, loaded.num_classes
    known: dict[str, Any] = dict(getattr(network, "pretrained_cfg", None) or {})
    architecture = known.get("architecture")
    if not architecture or not timm.is_model(architecture):
        raise UserError(
            f"{type(network).__name__} is not a model that timm builds by name; create it with "
            "tcformer.create_model or timm.create_model"
        )
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": count,
        "num_features": int(getattr(network, "num_features", 0)),
    }
    if isinstance(pool := getattr(network, "global_pool", None), str) and pool:
        config["global_pool"] = pool
    if classes is not None:
        if len(classes) != count:
            raise UserError(f"there are {len(classes)} names for {count} classes")
        config["label_names"] = [str(name) for name in classes]
    elif loaded.named:
        names = [*loaded.recorded, *loaded.classes[len(loaded.recorded) :]]
        config["label_names"] = names
        if names != list(loaded.classes):
            config["label_descriptions"] = dict(zip(names, loaded.classes, strict=True))
    if merging := merging_of(network):
        config["model_args"] = merging
    config["pretrained_cfg"] = {
        "custom_load": False,
        "num_classes": count,
        "input_size": [shape.in_chans, shape.input_size, shape.input_size],
        "fixed_input_size": bool(known.get("fixed_input_size", False)),
        "pool_size": None,
        "interpolation": shape.interpolation,
        "crop_pct": shape.kept,
        "crop_mode": "center",
        "mean": list(shape.spec.norm_mean),
        "std": list(shape.spec.norm_std),
        "first_conv": known.get("first_conv"),
        "classifier": known.get("classifier"),
    }
    return config


def _header(shape: Preprocessing, config: Mapping[str, Any]) -> dict[str, object]:
    """What the file of weights says by itself, without its folder."""
    told: dict[str, Any] = {"input_size": shape.input_size, "in_chans": shape.in_chans}
    told |= {"mean": shape.mean, "std": shape.std, "crop_pct": shape.crop_pct}
    told |= {"interpolation": shape.interpolation} if shape.interpolation != "bicubic" else {}
    words = config.get("label_descriptions", {})
    told |= {"classes": config.get("label_names"), "words": list(words.values()) or None}
    return {name: as_text(value) for name, value in told.items() if value is not None}


def _write(path: Path, text: str) -> None:
    atomic_write(path, lambda stream: stream.write(text.encode("utf-8", "backslashreplace")))


def _read_back(network: nn.Module, folder: Path, architecture: str) -> None:
    """Refuse what timm does not build again from the folder: sizes other than its name's."""
    try:
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
        state = network.state_dict()
        same = {k: torch.equal(v.cpu().to(again[k].dtype), again[k]) for k, v in state.items()}
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = cut(" ".join(str(error).split()))
        raise UserError(
            f"this network is not a {architecture} as timm builds it, so the hub format cannot "
            f"describe it: {reason}"
        ) from error
    if not all(same.values()) or again.keys() != state.keys():
        key = next((key for key in same if not same[key]), "the list of keys")
        raise UserError(f"{folder} does not read back as it was written ({key} differs)")
