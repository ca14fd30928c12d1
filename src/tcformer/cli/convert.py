"""`tcformer convert`: checkpoints in any published wrapping to safetensors, and back."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from tcformer.cli.parser import Parser
from tcformer.errors import UserError
from tcformer.files import check_writable, replacing

if TYPE_CHECKING:
    from torch import Tensor

_FORMATS = {".safetensors": "safetensors", ".pth": "published", ".pt": "published"}
_EPILOG = (
    "'safetensors' is what this package writes; 'published' is a .pth file {'model': weights} with "
    "the authors' names, which their own code can load. What the file says of its use (classes, "
    "input, parts) comes along; optimiser and schedule are left out."
)


def main(argv: list[str]) -> int:
    """Read the weights in SRC, write them to DST, read them back, compare."""
    parser = Parser("convert", epilog=_EPILOG)
    add = parser.add_argument
    add("source", metavar="SRC", help="the checkpoint to read")
    add("target", metavar="DST", help="the file to write")
    add("--to", choices=["safetensors", "tcformer", "published"], help="the format of DST "
        "('tcformer' is another word for 'safetensors'); by default its ending decides: "
        ".safetensors, or .pth and .pt for 'published'")  # fmt: skip
    parser.share("ema")
    add("--force", action="store_true", help="replace DST if it exists")
    args = parser.parse_args(argv)
    source, target = args.source, Path(args.target)
    to = _format(args.to, target)
    # Before torch is imported: the mistakes that need no look into the file.
    if os.path.lexists(target) and not args.force:
        raise UserError(f"{target} exists already; add --force to replace it")
    check_writable(target)
    from tcformer.weights.load import open_weights
    from tcformer.weights.metadata import name_with

    file = open_weights(source, args.ema)
    translated, architecture, epoch = file.translated, file.architecture, file.checkpoint.epoch
    state = translated.whole  # of a pose model neck and head come along
    if architecture is None:
        raise UserError(
            f"{source} holds the weights of another kind of network, not of a TCFormer "
            f"({len(state)} tensors, the first is '{next(iter(state))}')"
        )
    metadata: dict[str, object] = {**file.metadata.header()}
    if file.merging:
        metadata["merging"] = json.dumps(file.merging)
    if name := architecture.name or file.metadata.model:
        metadata["model"] = name_with(name, json.dumps(file.merging))
    if epoch is not None:
        metadata["epoch"] = epoch
    with replacing(target) as copy:  # what does not read back never gets the name
        _write(state, copy, to, metadata)
        _compare(state, metadata, copy, target)

    classes = architecture.num_classes
    head = f"{classes} classes" if classes is not None else "no classifier"
    after = f", epoch {epoch}" if epoch is not None else ""
    print(f"read     {source}: {architecture}, {head}{after}")
    notes = [*file.notes, *translated.notes]
    if translated.others:
        notes.append(f"kept along with the backbone: {', '.join(translated.parts)}")
    elif translated.prefix:
        notes.append(f"prefix '{translated.prefix}' removed")
    print(*(f"         {note}\n" for note in notes), sep="", end="")
    size = target.stat().st_size / 1e6
    print(f"wrote    {target}: {to}, {len(state)} tensors, {size:.1f} MB")
    print("verified every tensor and entry, read back from the new file, is the same")
    return 0


def _format(wanted: str | None, target: Path) -> str:
    by_ending = _FORMATS.get(target.suffix.lower())
    chosen = "safetensors" if wanted == "tcformer" else wanted or by_ending
    if chosen is None:
        raise UserError(
            f"the ending of {target} does not tell the format; "
            "end it in .safetensors or .pth, or say --to safetensors or --to published"
        )
    if by_ending not in (None, chosen):
        raise UserError(f"--to {wanted} does not go with the ending of {target}; change one")
    return chosen


def _write(state: dict[str, Tensor], target: Path, to: str, metadata: dict[str, object]) -> None:
    if to == "safetensors":
        from tcformer.weights.metadata import save_weights

        save_weights(state, target, metadata)
        return
    import torch

    from tcformer.files import atomic_write

    # Cloned: torch.save writes the whole storage behind a tensor that is a view of a larger one.
    published: dict[str, object] = {
        "model": OrderedDict((key, value.clone()) for key, value in state.items())
    }
    if set(metadata) - {"model", "epoch"}:  # the authors' code looks at no other entry
        published["about"] = metadata
        published |= {"epoch": metadata["epoch"]} if "epoch" in metadata else {}
    atomic_write(target, lambda stream: torch.save(published, stream))


def _compare(
    state: dict[str, Tensor], metadata: dict[str, object], copy: Path, target: Path
) -> None:
    import torch

    from tcformer.weights.metadata import checkpoint_metadata
    from tcformer.weights.safe_torch import read_checkpoint

    def same(a: Tensor, b: Tensor) -> bool:
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        # As bytes: NaN differs from itself, and 0.0 equals -0.0.
        left, right = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
        return torch.equal(left, right)

    checkpoint = read_checkpoint(copy)
    written, about = checkpoint.state_dict, checkpoint_metadata(checkpoint).header()
    wrong = sorted(state.keys() ^ written.keys())
    wrong += [key for key in state if key in written and not same(state[key], written[key])]
    own = ("model", "merging", "epoch")  # `save_weights` and the sizes have a say in these
    wrong += [key for key, value in metadata.items() if key not in own and about.get(key) != value]
    if wrong:
        raise UserError(
            f"{target} would not read back as it was written ('{wrong[0]}' differs), so it was "
            "not kept; check the disk"
        )
