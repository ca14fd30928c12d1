"""Records: one JSON file a run, with everything that its figures depend on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from tcformer.errors import UserError
from tcformer.files import atomic_write, check_readable, check_writable, parse_json, read_whole
from tcformer.runtime import provenance

FORM = 1
"""Version of the records' form."""


def default_folder() -> Path:
    """`benchmarks/results` of the source tree this package runs from, else of the current one."""
    tree = Path(__file__).resolve().parents[3]
    if (tree / "benchmarks" / "results").is_dir() and (tree / "pyproject.toml").is_file():
        return tree / "benchmarks" / "results"
    return Path("benchmarks", "results")


def begin(
    arguments: Sequence[str], device: torch.device, program: str = "tcformer bench"
) -> dict[str, Any]:
    """What is known before anything is measured; the load above all, which measuring changes."""
    return {
        "form": FORM,
        "command": provenance.command_line(arguments, program),
        **provenance.circumstances(device),
    }


def check_place(target: Path) -> None:
    """Refuse a place for a record before anything is measured.

    Raises:
        UserError: the folder is missing or nothing can be written there.
    """
    if target.suffix != ".json" and not target.is_dir():
        raise UserError(
            f"the record cannot be kept: there is no folder {target}; "
            "create it, or name another place with --output."
        )
    check_writable(target if target.suffix == ".json" else target / "record.json")


def keep(record: dict[str, Any], kind: str, target: Path | None = None) -> Path:
    """Write a record and return its place.

    Args:
        record: what `begin` gave, with the figures.
        kind: what was measured, for the name of the file: DATE-KIND-cpu.json.
        target: a folder that exists or a file ending in .json; `default_folder()` if left out.
            In a folder an earlier record of the same name is kept and the new one is numbered.

    Raises:
        UserError: the folder is missing or nothing can be written there.
    """
    target = default_folder() if target is None else target
    check_place(target)
    if target.suffix != ".json":
        device = "gpu" if record["machine"]["device"] == "cuda" else record["machine"]["device"]
        stem = f"{record['date']}-{kind}-{device}"
        names = (f"{stem}{'' if number == 1 else f'-{number}'}.json" for number in count(1))
        target = next(target / name for name in names if not (target / name).exists())
    text = json.dumps(record, indent=1) + "\n"
    try:
        atomic_write(target, lambda stream: stream.write(text.encode()))
    except UserError as error:
        raise UserError(f"the record is not kept: {error}.") from error
    return target


def read(path: Path) -> dict[str, Any]:
    """Read a record back.

    Raises:
        UserError: no such file, or it is no record of `tcformer bench`.
    """
    check_readable(path)
    try:
        record = parse_json(read_whole(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a JSON file; name a record of `tcformer bench`.") from error
    if not isinstance(record, dict) or record.get("form") != FORM:
        raise UserError(
            f"{path} is not a record of this `tcformer bench`; records have form {FORM}."
        )
    return record
