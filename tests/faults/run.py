"""Fault campaigns: `make faults`, `make faults ARGS="kill --trials 200 --seed 7"`.

    python tests/faults/run.py [NAME...] [--trials N] [--seed S] [--record]
    python tests/faults/run.py tests --record --only 'faults/disks/*' --only '*torchrun*'

A campaign is a file `campaign_NAME.py` anywhere below this folder with

    TRIALS = 50                                    # unless --trials or FAULT_TRIALS say otherwise

    def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]: ...

where `folder` is empty and temporary and each `Trial` (tests/helpers/campaign.py) says what was
tried and what went wrong, if anything. The same seed gives the same trials. `tests` is no file: it
runs every test that docs/reliability.toml names and counts its cases. Without a NAME all are run.

`--only` takes some of those tests, by patterns as a shell's; recorded, they join the newest record
of its kind, so that it can be made in parts. Each part notes its commit, command and time.

With --record each leaves benchmarks/results/DATE-faults-NAME.json, from which `make docs` fills the
last column of docs/reliability.md. The status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import json
import os
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "src"), str(HERE.parent / "helpers")]

from campaign import Trial  # noqa: E402 - found through the line above

ALL_TESTS = "tests"


def main(argv: list[str]) -> int:
    """Run the campaigns that are named; 1 if anything failed."""
    files = {p.stem.removeprefix("campaign_"): p for p in sorted(HERE.rglob("campaign_*.py"))}
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = [*files, ALL_TESTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--trials", type=int, default=os.environ.get("FAULT_TRIALS") or None)
    parser.add_argument("--seed", type=int, default=os.environ.get("FAULT_SEED") or 0)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="of `tests`, some")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in names:
            parser.error(f"there is no campaign {name!r}, only {', '.join(names)}")
    if options.only and options.names != [ALL_TESTS]:
        parser.error(f"--only is about {ALL_TESTS!r}: say `{ALL_TESTS} --only PATTERN`")
    wanted = tests_named(options.only)
    if not wanted:
        parser.error(f"no test that docs/reliability.toml names is like {options.only}")
    failed = 0
    for name in options.names or names:
        begun = beginning(argv) if options.record else {}
        earlier = newest(name) if options.record and options.only else None
        if earlier and (why := against_joining(earlier, begun)):
            parser.error(why)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"tcf-faults-{name}-") as folder:
            if name == ALL_TESTS:
                outcome = run_tests(wanted, Path(folder))
            else:
                sys.path.insert(0, str(files[name].parent))  # for what lies beside it
                module = runpy.run_path(str(files[name]))
                trials = int(options.trials or module["TRIALS"])
                found = module["campaign"](trials, int(options.seed), Path(folder))
                outcome = {"seed": int(options.seed), **counted(name, found)}
        outcome["seconds"] = round(time.monotonic() - began)
        print(f"{name}: {outcome['trials']} trials, {outcome['failures']} failures", flush=True)
        failed += outcome["failures"]
        if options.record:
            keep(name, joined(earlier, begun | outcome) if earlier else begun | outcome)
    return int(failed > 0)


def counted(name: str, trials: Iterator[Trial]) -> dict[str, Any]:
    """Numbers of trials and failures, in all and of each kind; failures are told in words."""
    kinds: dict[str, collections.Counter[str]] = {}
    failed: list[dict[str, str]] = []
    told: dict[str, str] = {}
    for number, trial in enumerate(trials, 1):
        kind = kinds.setdefault(trial.kind, collections.Counter(trials=0, failures=0))
        kind["trials"] += trial.count
        if trial.told:
            told[trial.kind] = trial.told
        if trial.problem:
            kind["failures"] += 1
            failed.append({"kind": trial.kind, "what": trial.what, "problem": trial.problem})
            print(f"{name} {number}: {trial.what}: FAILED: {trial.problem}", flush=True)
        elif trial.count == 1:
            print(f"{name} {number}: {trial.what}: held", flush=True)
    return {
        "trials": sum(kind["trials"] for kind in kinds.values()),
        "failures": len(failed),
        "kinds": {name: dict(kind) for name, kind in kinds.items()},
        "failed": failed,
        **({"told": told} if told else {}),
    }


def tests_named(patterns: Sequence[str] | None) -> list[str]:
    """The tests that docs/reliability.toml names, or those of them that are like a pattern."""
    promises = tomllib.loads((ROOT / "docs" / "reliability.toml").read_text())["promise"]
    named = sorted({test for promise in promises for test in promise["tests"]})
    if patterns is None:
        return named
    return [test for test in named if any(fnmatch.fnmatchcase(test, p) for p in patterns)]


def run_tests(wanted: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run tests, slow ones too, and count their cases; one of which nothing ran has failed."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow"),
        *("--junitxml", str(folder / "results.xml"), "-o", "junit_family=xunit1"),
        *(f"tests/{test}" for test in wanted),
    ]
    env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, cwd=ROOT, env=env, check=False)
    cases = {test: {"trials": 0, "failures": 0, "skipped": 0} for test in wanted}
    failed: list[str] = []
    for case in ET.parse(folder / "results.xml").iter("testcase"):
        file = case.get("file", "").removeprefix("tests/")
        row = cases.get(f"{file}::{case.get('name', '').partition('[')[0]}")
        if row is None:
            continue
        if case.find("skipped") is not None:
            row["skipped"] += 1
            continue
        row["trials"] += 1
        if case.find("failure") is not None or case.find("error") is not None:
            row["failures"] += 1
            failed.append(f"{file}::{case.get('name')}")
    for test, row in cases.items():
        if not row["trials"] + row["skipped"]:
            row["failures"] += 1
            failed.append(f"{test}: nothing of it ran")
    return summed(cases, failed)


def summed(cases: Mapping[str, Mapping[str, int]], failed: Sequence[str]) -> dict[str, Any]:
    """The outcome of tests."""
    return {
        "trials": sum(row["trials"] for row in cases.values()),
        "failures": len(failed),
        "tests": dict(sorted(cases.items())),
        "failed": list(failed),
    }


def against_joining(earlier: Mapping[str, Any], begun: Mapping[str, Any]) -> str | None:
    """Why what runs now does not belong into an earlier record, or None."""
    for group, name in (("machine", "processor"), ("versions", "torch")):
        if earlier[group][name] != begun[group][name]:
            return (
                f"the record to join is of {name} {earlier[group][name]}, not of "
                f"{begun[group][name]}: make a whole one, without --only"
            )
    return None


def joined(earlier: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the tests, joined to the record of others; what ran again is replaced."""
    again = set(outcome["tests"])
    still = set(tests_named(None)) - again  # others may be named no longer
    cases = {test: row for test, row in earlier["tests"].items() if test in still}
    failed = [f for f in earlier["failed"] if f.partition("[")[0].partition(": ")[0] in still]
    both = {**outcome, **summed(cases | outcome["tests"], [*failed, *outcome["failed"]])}
    both["parts"] = [*earlier.get("parts", [part_of(earlier)]), part_of(outcome)]
    both["seconds"] = sum(part["seconds"] for part in both["parts"])
    return both


def part_of(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a record in parts keeps of each."""
    names = ("command", "date", "time", "commit", "changed", "load_average_at_start", "seconds")
    return {name: outcome[name] for name in names} | {"tests": sorted(outcome["tests"])}


def beginning(argv: list[str]) -> dict[str, Any]:
    """Machine, versions and commit, before a long campaign gives time to change the files."""
    import torch

    from tcformer.bench import record

    command = shlex.join(["python", "tests/faults/run.py", *argv])
    return record.begin([], torch.device("cpu")) | {"command": command}


def newest(name: str) -> dict[str, Any] | None:
    """The newest record of a campaign, if there is one."""
    from tcformer.bench import record

    found = sorted(record.default_folder().glob(f"*-faults-{name}.json"))
    return dict(json.loads(found[-1].read_text())) if found else None


def keep(name: str, outcome: dict[str, Any]) -> None:
    """Write the record of a campaign; replaces today's."""
    from tcformer.bench import record

    place = record.default_folder() / f"{outcome['date']}-faults-{name}.json"
    place.write_text(json.dumps({"campaign": name, **outcome}, indent=1) + "\n")
    print(f"{name}: record in {place.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
