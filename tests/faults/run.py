"""Fault campaigns: `make faults`, `make faults ARGS="kill --trials 200 --seed 7"`.

    python tests/faults/run.py [NAME...] [--trials N] [--seed S] [--record]

A campaign is a file `campaign_NAME.py` anywhere below this folder with TRIALS, their number unless
--trials says another, and `campaign(trials, seed, folder)`, which yields a `Trial` for each
(tests/helpers/campaign.py); `folder` is empty and temporary. The same seed gives the same trials.
`tests` is no file: it runs every test that docs/reliability.toml names and counts its cases.
Without a NAME all are run.

With --record each leaves benchmarks/results/DATE-faults-NAME.json, from which `make docs` fills the
last column of docs/reliability.md. The status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import collections
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "src"), str(HERE.parent / "helpers"), str(HERE.parent / "training")]
sys.path += sorted({str(path.parent) for path in HERE.glob("*/*.py")})  # what a campaign is made of

# Found through the lines above.
import torch  # noqa: E402
from campaign import Trial  # noqa: E402

from tcformer.bench import record  # noqa: E402

ALL_TESTS = "tests"


def main(argv: list[str]) -> int:
    """Run the campaigns that are named; 1 if anything failed."""
    files = {p.stem.removeprefix("campaign_"): p for p in sorted(HERE.rglob("campaign_*.py"))}
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = [*files, ALL_TESTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in names:
            parser.error(f"there is no campaign {name!r}, only {', '.join(names)}")
    failed = 0
    for name in options.names or names:
        begun = {}
        if options.record:  # before a long campaign gives time to change the files
            begun = record.begin([], torch.device("cpu"))
            begun["command"] = shlex.join(["python", "tests/faults/run.py", *argv])
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"tcf-faults-{name}-") as folder:
            if name == ALL_TESTS:
                outcome = run_tests(Path(folder))
            else:
                module = runpy.run_path(str(files[name]))
                trials = options.trials or module["TRIALS"]
                found = module["campaign"](trials, options.seed, Path(folder))
                outcome = {"seed": options.seed, **counted(name, found)}
        outcome["seconds"] = round(time.monotonic() - began)
        print(f"{name}: {outcome['trials']} trials, {outcome['failures']} failures", flush=True)
        failed += outcome["failures"]
        if options.record:
            keep(name, begun | outcome)
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


def run_tests(folder: Path) -> dict[str, Any]:
    """Run the tests that docs/reliability.toml names, slow ones too, and count their cases.

    A test of which nothing ran has failed.
    """
    promises = tomllib.loads((ROOT / "docs" / "reliability.toml").read_text())["promise"]
    wanted = sorted({test for promise in promises for test in promise["tests"]})
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
    return {
        "trials": sum(row["trials"] for row in cases.values()),
        "failures": len(failed),
        "tests": cases,
        "failed": failed,
    }


def keep(name: str, outcome: dict[str, Any]) -> None:
    """Write the record of a campaign; replaces today's."""
    place = record.default_folder() / f"{outcome['date']}-faults-{name}.json"
    place.write_text(json.dumps({"campaign": name, **outcome}, indent=1) + "\n")
    print(f"{name}: record in {place.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
