"""Write docs/reliability.md from docs/reliability.toml and the records of `make faults`.

`make docs` calls this; tests/contracts/test_reliability.py compares the page with both.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORDS = HERE.parent / "benchmarks" / "results"

PARTS = (
    "Kill anywhere",
    "Signals and clusters",
    "Resume elsewhere",
    "Disks",
    "Inputs",
    "Numbers",
    "Long runs",
)

HEAD = """\
# What a run survives

`docs/reliability.toml` names the tests that hold each promise. They run with every change.
`make faults` runs them all and longer campaigns, seeded series of injected faults (`tests/faults`):

```console
$ make faults ARGS="kill --trials 100 --seed 7"
```

The table adds up campaign trials and test cases in the newest `benchmarks/results/*-faults-*.json`,
which hold commit, command, machine and versions.
"""


def promises() -> list[dict[str, Any]]:
    """The promises, in the order of the file."""
    return list(tomllib.loads((HERE / "reliability.toml").read_text())["promise"])


def records() -> dict[str, dict[str, Any]]:
    """Campaign -> its newest record, with the name of its file."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(RECORDS.glob("*-faults-*.json")):
        record = {"file": file.name, **json.loads(file.read_text())}
        found[record["campaign"]] = record
    return found


def counted(promise: dict[str, Any], kept: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Kind of trial or test -> its trials and failures; empty while one is not recorded."""
    if name := promise.get("campaign"):
        rows = kept.get(name, {}).get("kinds", {})
        names = promise.get("kinds", rows)
    else:
        # By the function's name: a test that was moved to another file keeps its record.
        name, names = "tests", [test.partition("::")[2] for test in promise["tests"]]
        tests = kept.get(name, {}).get("tests", {})
        rows = {test.partition("::")[2]: row for test, row in tests.items()}
    found = {f"{name} {each}": rows[each] for each in names if each in rows}
    return found if len(found) == len(names) else {}


def page() -> str:
    """The text of docs/reliability.md."""
    kept, rows = records(), promises()
    table = [
        "| | promises | not recorded yet | trials and cases | failures |",
        "|---|---|---|---|---|",
    ]
    lines = []
    for part in PARTS:
        of_part = [promise for promise in rows if promise["part"] == part]
        found = [counted(promise, kept) for promise in of_part]
        # A test that holds two promises counts once.
        cases = {name: row for each in found for name, row in each.items()}
        trials, failures = (sum(row[k] for row in cases.values()) for k in ("trials", "failures"))
        cells = (part, len(of_part), found.count({}), f"{trials:,}", failures)
        table.append(f"| {' | '.join(map(str, cells))} |")
        lines += ["", f"## {part}", "", *(f"* {promise['says']}" for promise in of_part)]
    return "\n".join([HEAD, *table, *lines]) + "\n"


if __name__ == "__main__":
    (HERE / "reliability.md").write_text(page())
