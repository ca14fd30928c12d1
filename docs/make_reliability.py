"""Write docs/reliability.md from docs/reliability.toml and the records of `make faults`.

`make docs` calls this; tests/contracts/test_reliability.py compares the page with both.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from learning_records import processor

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

Each row is a promise, the test that holds it, and what was measured. The tests run with every
change, those that take long as well. `make faults` runs the longer campaigns:

```console
$ make faults ARGS="kill --trials 100 --seed 7"
```

`make faults` alone runs all of them and every test below. A campaign is a seeded series of trials
(`tests/faults`); its numbers of trials and failures are those of the record named below. Of a
promise without a campaign, the cases of its tests are counted.
"""

NOT_MEASURED = "not recorded yet"


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


def measured(promise: dict[str, Any], kept: dict[str, dict[str, Any]]) -> str:
    """The last cell of a row."""
    told: list[str] = []
    if name := promise.get("campaign"):
        if name not in kept:
            return NOT_MEASURED
        kinds = kept[name]["kinds"]
        wanted = list(promise.get("kinds", kinds))
        rows, noun = [kinds[kind] for kind in wanted], "trial"
        figures = kept[name].get("told", {})
        told = [figures[kind] for kind in wanted if kind in figures]
    else:
        # By the function's name: a test that was moved to another file keeps its record.
        cases = {
            _function(test): row for test, row in kept.get("tests", {"tests": {}})["tests"].items()
        }
        tests = [_function(test) for test in promise["tests"]]
        if any(test not in cases for test in tests):
            return NOT_MEASURED
        rows, noun = [cases[test] for test in tests], "case"
    trials, failures = (sum(row[what] for row in rows) for what in ("trials", "failures"))
    skipped = sum(row.get("skipped", 0) for row in rows)
    parts = [_number(trials, noun), _number(failures, "failure")]
    parts += [f"{skipped} skipped"] if skipped else []
    return "; ".join([", ".join(parts), *told])


def _function(test: str) -> str:
    return test.partition("::")[2]


def page() -> str:
    """The text of docs/reliability.md."""
    kept, rows = records(), promises()
    lines = [HEAD]
    for part in PARTS:
        of_part = [promise for promise in rows if promise["part"] == part]
        if not of_part:
            continue
        lines += [f"## {part}", "", "| promise | test | measured |", "|---|---|---|"]
        for promise in of_part:
            tests = ", ".join(f"`{test}`" for test in promise["tests"])
            lines.append(f"| {promise['says']} | {tests} | {measured(promise, kept)} |")
        lines.append("")
    if kept:
        lines += ["## Records", ""]
        lines += [_described(name, kept[name]) for name in sorted(kept)]
    return "\n".join(lines).rstrip() + "\n"


def _described(name: str, record: dict[str, Any]) -> str:
    totals = f"{_number(record['trials'], 'trial')}, {_number(record['failures'], 'failure')}"
    by = f"seed {record['seed']}, " if "seed" in record else ""
    parts = record.get("parts", [record])
    if len(parts) > 1:
        by = f"the last of {len(parts)} parts, "
    commits = list(dict.fromkeys(part["commit"] for part in parts))
    what = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"
    return (
        f"- {name} (`benchmarks/results/{record['file']}`): {totals}; `{record['command']}`, "
        f"{by}{record['seconds']} s, {record['date']}, {what}, "
        f"{processor(record)}, torch {record['versions']['torch']}"
    )


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    (HERE / "reliability.md").write_text(page())
