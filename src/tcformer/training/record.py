"""The record of a run: one JSON file that tells everything its figures depend on.

A training run writes OUTPUT/record.json after every epoch, whole or not at all, an evaluation
OUTPUT/evaluation.json when it has ended; `--record FILE` names another place. A run that is resumed
goes on with the record it finds. Of absolute paths only the last part is kept, so that a record may
be published; the whole ones are in OUTPUT/config.json.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcformer.errors import UserError
from tcformer.files import atomic_write, check_writable, make_folder, parse_json, read_whole
from tcformer.runtime import provenance
from tcformer.runtime.distributed import World
from tcformer.runtime.logger import logger
from tcformer.training.config import RunConfig
from tcformer.training.log import finite_or_null

__all__ = ["FORM", "TRAINING", "Kept", "RunRecord", "current", "read_record", "recording"]

FORM = "tcformer run 1"
"""Name and version of the records' form."""

TRAINING, EVALUATION = "record.json", "evaluation.json"


@dataclass(frozen=True)
class Kept:
    """What a record asks of the options of a run; `RunConfig` has all of it."""

    output_dir: str = ""
    record: str = ""
    """File of the record where it has a place of its own."""
    eval: bool = False
    dry_run: bool = False
    """Nothing is to be written."""
    seed: int | None = None


_active: list[RunRecord] = []


class RunRecord:
    """The record of one run, kept up to date on disk. Silent where nothing is to be kept.

    Nothing is written before `begin`, so that a run which is refused leaves no file.

    Args:
        kept: where it goes, and what is run.
        world: this process among all; only the main one writes.
        command: the words of the command line behind the program; None when called from Python.
        config: all options as JSON has them.
        made_from: files that the run reads, which a record must not replace.

    Attributes:
        also: facts to begin with, beside those of the task.
    """

    def __init__(
        self,
        kept: Kept | RunConfig,
        world: World,
        command: Sequence[str] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        made_from: Sequence[str] = (),
    ) -> None:
        place = kept.record
        if not place and kept.output_dir:
            place = os.path.join(kept.output_dir, EVALUATION if kept.eval else TRAINING)
        writes = place and world.is_main and not kept.dry_run
        self.path = Path(place) if writes else None
        self._cfg, self._world, self._config = kept, world, config or {}
        self._command = None if command is None else provenance.command_line(command)
        self.also: dict[str, Any] = {}
        self._started = self._last = time.monotonic()
        self._worked = _processor_seconds()
        self._content: dict[str, Any] = {}
        self._session: dict[str, Any] = {}
        if self.path is not None:
            check_writable(self.path, made_from=made_from)

    def begin(
        self, about: Mapping[str, Any], *, resumed: bool = False, first_epoch: int = 0
    ) -> None:
        """Write the record for the first time, or go on with the one of the run that is resumed.

        `about` is what the task tells: model, number of parameters, data. What is recorded of
        `first_epoch`, which comes next, and of later ones is dropped.
        """
        if self.path is None:
            return
        make_folder(self.path.parent)
        earlier = None if self._cfg.eval else self._earlier()
        # A run that was killed before its first checkpoint begins anew, and yet is the same run.
        anew = earlier is None or bool(earlier["epochs"] and not resumed)
        if earlier is None or anew:
            earlier = {"epochs": [], "sessions": []}
        for session in earlier["sessions"]:
            if session["status"] == "running":
                session["status"] = "killed"  # it had no time to say so
        epochs = [entry for entry in earlier["epochs"] if entry["epoch"] < first_epoch]
        self._session = {
            "status": "running",
            "command": self._command,
            "resumed": resumed,
            "first_epoch": None if self._cfg.eval else first_epoch,
            "processes": self._world.size,
            "launcher": self._world.launcher,
            **provenance.circumstances(self._world.device),
        }
        self._content = {
            "form": FORM,
            "kind": "evaluation" if self._cfg.eval else "training",
            "status": "running",
            **{**about, **self.also},
            "seed": self._cfg.seed,
            "config": provenance.without_place(self._config),
            "best": None,
            "wall_seconds": 0.0,
            "processor_seconds": 0.0,
            "peak_memory": {},
            "epochs": epochs,
            "sessions": [*earlier["sessions"], self._session],
        }
        self._last = time.monotonic()
        if not self._cfg.eval:
            self._write_anew() if anew else self._write()

    def epoch(self, numbers: Mapping[str, float]) -> None:
        """Add the numbers of an epoch that is finished, as they stand in log.txt."""
        if not self._session:
            return
        now = time.monotonic()
        seconds = round(now - self._last, 3)
        self._content["epochs"].append({**finite_or_null(numbers), "seconds": seconds})
        self._last = now
        self._write()

    def result(self, numbers: Mapping[str, float]) -> None:
        """Add what an evaluation came to."""
        if self._session:
            self._content["result"] = finite_or_null(numbers)

    def close(self, status: str, reason: str = "") -> None:
        """Write the end: "finished", "interrupted" or "failed", and why."""
        if not self._session or "ended" in self._session:
            return
        self._session["status"] = status
        if reason:
            # Absolute paths keep their last part only.
            self._session["reason"] = re.sub(r"(^|[\s'\"=(,])[~/]\S*/(?=\S)", r"\1", reason)
        now = datetime.datetime.now(datetime.UTC)
        self._session["ended"] = now.strftime("%Y-%m-%d %H:%M UTC")
        assert self.path is not None
        if self._cfg.eval and status != "finished" and self.path.exists():
            return  # an evaluation that fails leaves the record of an earlier one
        try:
            self._write_anew() if self._cfg.eval else self._write()
        except UserError:
            if status == "finished":  # otherwise the true cause must not be hidden by this one
                raise

    def _write_anew(self) -> None:
        """Write the record, and keep that of an earlier run under a numbered name."""
        assert self.path is not None
        kept = _set_aside(self.path)
        try:
            self._write()
        except BaseException:
            if kept is not None:
                os.replace(kept, self.path)
            raise
        if kept is not None and not self._cfg.eval:  # whose last lines are its figures
            logger.info(f"NOTICE: the earlier record is {kept} now.")

    def _write(self) -> None:
        assert self.path is not None
        content, session = self._content, self._session
        session["wall_seconds"] = round(time.monotonic() - self._started, 3)
        session["processor_seconds"] = round(_processor_seconds() - self._worked, 3)
        session["peak_memory"] = provenance.peak_memory(self._world.device)
        content["status"] = session["status"]
        for name in ("wall_seconds", "processor_seconds"):
            # Sessions recorded by earlier versions lack the second.
            content[name] = round(sum(s.get(name, 0.0) for s in content["sessions"]), 3)
        for name in ("host_bytes", "gpu_bytes"):
            peaks = [s["peak_memory"].get(name) for s in content["sessions"]]
            known = [peak for peak in peaks if peak is not None]
            content["peak_memory"][name] = max(known, default=None)
        content["best"] = _best(content["epochs"], f"test_{content.get('metric')}")
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        atomic_write(self.path, lambda stream: stream.write(text.encode()))

    def _earlier(self) -> dict[str, Any] | None:
        assert self.path is not None
        if not self.path.exists():
            return None
        try:
            return read_record(self.path)
        except UserError as problem:
            logger.info(f"NOTICE: the record begins anew: {problem}.")
            return None


@contextlib.contextmanager
def recording(record: RunRecord) -> Iterator[RunRecord]:
    """Let the run inside the block write to `record`, and close it when the block ends.

    What is closed already stays so.
    """
    _active.append(record)
    try:
        yield record
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        record.close("interrupted" if stopped else "failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        _active.pop()
    record.close("finished")


def current() -> RunRecord:
    """The record of the run under way; one that keeps nothing where none is written."""
    return _active[-1] if _active else RunRecord(Kept(), World())


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a record back.

    Raises:
        UserError: no such file, or not a record of a run.
    """
    try:
        content = parse_json(read_whole(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name the record.json of a run") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON; name the record.json of a run") from None
    if not _is_record(content):
        raise UserError(f"{path} is not the record of a run of this tcformer ({FORM!r})")
    assert isinstance(content, dict)
    return content


_OF_A_SESSION = {"wall_seconds": (int, float), "peak_memory": dict, "status": str}


def _is_record(content: Any) -> bool:
    def all_have(name: str, **kinds: Any) -> bool:
        entries = content.get(name)
        return isinstance(entries, list) and all(
            isinstance(entry, dict) and isinstance(entry.get(key), kind)
            for entry in entries
            for key, kind in kinds.items()
        )

    good = isinstance(content, dict) and content.get("form") == FORM
    return good and all_have("epochs", epoch=(int, float)) and all_have("sessions", **_OF_A_SESSION)


def _set_aside(path: Path) -> Path | None:
    """Keep the record of an earlier run under a numbered name; None if there is none."""
    if not path.exists():
        return None
    number = 1
    while (kept := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    try:
        path.rename(kept)
    except OSError as error:
        raise UserError(f"cannot rename {path}: {error.strerror or error}") from error
    return kept


def _best(epochs: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    measured = [entry for entry in epochs if isinstance(entry.get(name), (int, float))]
    if not measured:
        return None
    best = max(measured, key=lambda entry: (entry[name], -entry["epoch"]))
    return {"epoch": best["epoch"], name.removeprefix("test_"): best[name]}


def _processor_seconds() -> float:
    """Of the main process, all its threads, and the loader processes that have ended."""
    return sum(os.times()[:4])
