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
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import nn

from tcformer.errors import UserError
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
    network, shape = _described(model, input_size)
    folder = Path(folder)
    config = _config(network, shape, *_labels(model, network, classes))
    told = read_record(Path(record)) if isinstance(record, (str, os.PathLike)) else record
    taken = [file for file in (CONFIG, WEIGHTS, CARD) if os.path.lexists(folder / file)]
    if taken and not overwrite:
        raise UserError(
            f"{folder} holds a {taken[0]} already; name another folder, or say that it is to be "
            "replaced (--force, overwrite=True)"
        )
    for name_of_file in (CONFIG, WEIGHTS, CARD):
        check_writable(folder / name_of_file)
    _check_buildable(network, config)
    epoch = getattr(model, "epoch", None)
    title = name or folder.resolve().name
    card = model_card(config, told, name=title, repo=repo, license=license, epoch=epoch)
    # Without the configuration nobody takes the folder for a model.
    with staging(folder, last=CONFIG) as scratch:
        save_weights(network, scratch / WEIGHTS, _header(shape, config))
        _write(scratch / CARD, card)
        _write(scratch / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        _compare(network, scratch)
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
        token: with the right to write; None takes what `hf auth login` or HF_TOKEN gave.
        private: whether a new repository is private.
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
    if source is None:
        return None
    path = Path(source).parent / TRAINING
    return path if path.is_file() else None


def _described(
    model: nn.Module | Loaded, input_size: int | None
) -> tuple[nn.Module, Preprocessing]:
    network = model if isinstance(model, nn.Module) else model.network
    if isinstance(model, nn.Module):
        cfg = getattr(model, "pretrained_cfg", None) or {}
        channels, side = cfg.get("input_size", (3, 224, 224))[::2]
        channels = getattr(model, "in_chans", channels)
        mean, std = (cfg.get(key) for key in ("mean", "std"))
        same = bool(mean and std) and len(mean or ()) == channels
        shape = Preprocessing(
            input_size or side,
            channels,
            tuple(mean or ()) if same else None,
            tuple(std or ()) if same else None,
            interpolation=cfg.get("interpolation", "bicubic"),
        )
        return network, shape
    model.refuse_left_out("timm's hub format")
    shape = model.preprocessing
    return network, shape if input_size is None else model.resized(input_size).preprocessing


def _labels(
    model: nn.Module | Loaded, network: nn.Module, classes: Sequence[str] | None
) -> tuple[list[str], dict[str, str]]:
    """The names of the classes, and words for those that have them."""
    count = int(getattr(network, "num_classes", 0))
    if classes is None:
        if isinstance(model, nn.Module) or not model.named:
            return [], {}
        words, names = list(model.classes), list(model.recorded or model.classes)
        names += words[len(names) :]
        return names, dict(zip(names, words, strict=True)) if names != words else {}
    if len(classes) != count:
        raise UserError(f"there are {len(classes)} names for {count} classes")
    return [str(name) for name in classes], {}


def _header(shape: Preprocessing, config: Mapping[str, Any]) -> dict[str, object]:
    """What the file of weights says by itself, without its folder."""
    told: dict[str, Any] = {"input_size": shape.input_size, "in_chans": shape.in_chans}
    told |= {"mean": shape.mean, "std": shape.std, "crop_pct": shape.crop_pct}
    told |= {"interpolation": shape.interpolation} if shape.interpolation != "bicubic" else {}
    words = config.get("label_descriptions", {})
    told |= {"classes": config.get("label_names"), "words": list(words.values()) or None}
    return {name: as_text(value) for name, value in told.items() if value is not None}


def _config(
    network: nn.Module, shape: Preprocessing, labels: list[str], words: Mapping[str, str]
) -> dict[str, Any]:
    known: dict[str, Any] = dict(getattr(network, "pretrained_cfg", None) or {})
    architecture = known.get("architecture")
    if not architecture or not timm.is_model(architecture):
        raise UserError(
            f"{type(network).__name__} is not a model that timm builds by name; create it with "
            "tcformer.create_model or timm.create_model"
        )
    count = int(getattr(network, "num_classes", 0))
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": count,
        "num_features": int(getattr(network, "num_features", 0)),
    }
    if isinstance(pool := getattr(network, "global_pool", None), str) and pool:
        config["global_pool"] = pool
    if labels:
        config["label_names"] = labels
        config |= {"label_descriptions": dict(words)} if words else {}
    if merging := merging_of(network):
        config["model_args"] = merging
    side = shape.input_size
    config["pretrained_cfg"] = {
        "custom_load": False,
        "num_classes": count,
        "input_size": [shape.in_chans, side, side],
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


def _check_buildable(network: nn.Module, config: Mapping[str, Any]) -> None:
    """Refuse a network whose sizes are not those of its name: nobody could build it again."""
    with torch.device("meta"):
        twin = timm.create_model(
            config["architecture"],
            num_classes=config["num_classes"],
            in_chans=config["pretrained_cfg"]["input_size"][0],
            **config.get("model_args", {}),
        )
    ours, theirs = (
        {key: tuple(value.shape) for key, value in each.state_dict().items()}
        for each in (network, twin)
    )
    if ours != theirs:
        key = next(k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k))
        raise UserError(
            f"this network is not a {config['architecture']} as timm builds it ({key} differs), so "
            "the hub format cannot describe it"
        )


def _write(path: Path, text: str) -> None:
    atomic_write(path, lambda stream: stream.write(text.encode("utf-8", "backslashreplace")))


def _compare(network: nn.Module, folder: Path) -> None:
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    for key, value in network.state_dict().items():
        if not torch.equal(value.cpu().to(again[key].dtype), again[key]):
            raise UserError(f"{folder} does not read back as it was written ({key} differs)")
