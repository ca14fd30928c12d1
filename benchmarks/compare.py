"""Compare with an earlier commit on this machine: the ratio to PVTv2 of both builds, in turns.

    python benchmarks/compare.py --commit ebd896c
    python benchmarks/compare.py --commit ebd896c tcformer/pvt_v2_b2:8,training

A case is OURS/BASELINE:WORDS. WORDS are a batch, then perhaps a size, `training` or `bf16`. Each
turn starts a process for each build, which times both networks in turns and gives their ratio.
Printed are the medians of both ratios and of new / old, with quartiles. Both builds have the C++
kernels and large pages; the commit is checked out with `git worktree`, which is removed again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CASES = (
    "tcformer/pvt_v2_b2:1",
    "tcformer/pvt_v2_b2:8",
    "tcformer_light/pvt_v2_b1:1",
    "tcformer_light/pvt_v2_b1:8",
    "tcformer_nano/pvt_v2_b0:1,32",
    "tcformer_nano/pvt_v2_b0:1,64",
    "tcformer_nano/pvt_v2_b0:1,224",
    "tcformer/pvt_v2_b2:8,bf16",
    "tcformer/pvt_v2_b2:8,training",
    "tcformer/pvt_v2_b2:1,1024",
    "tcformerv2_base/pvt_v2_b2:1,1024",
)
LEAST = 0.3
"""Seconds that a network's turn within a process lasts."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    parser.add_argument("--commit", required=True, help="the build to compare with")
    parser.add_argument("--turns", type=int, default=5, help="processes of each build")
    parser.add_argument("--rounds", type=int, default=5, help="turns within a process")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with checkout(options.commit) as old:
        builds = {"new": ROOT, "old": old}
        for case in options.cases:
            found: dict[str, list[float]] = {name: [] for name in builds}
            for _ in range(options.turns):
                for name, folder in builds.items():
                    found[name].append(child(folder, case, options))
            change = [a / b for a, b in zip(found["new"], found["old"], strict=True)]
            told = [f"new {spread(found['new'])}", f"old {spread(found['old'])}"]
            print(f"{case}: {', '.join(told)}, new / old {spread(change)}", flush=True)
    return 0


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A folder with the sources of a commit, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="compare-") as place:
        folder = Path(place, "old")
        git = ["git", "-C", str(ROOT), "worktree"]
        added = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True)
        if added.returncode:
            raise SystemExit(f"error: {added.stderr.decode().strip()}")
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def child(folder: Path, case: str, options: argparse.Namespace) -> float:
    """The ratio of one process with the sources below `folder`."""
    environment = {
        **os.environ, "PYTHONPATH": str(folder / "src"), "THP_MEM_ALLOC_ENABLE": "1",
        "OMP_NUM_THREADS": str(options.threads),
    }  # fmt: skip
    words = [sys.executable, __file__, "--child", case, str(options.rounds), str(options.threads)]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: {case} failed with the sources of {folder}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: str, rounds: int, threads: int) -> float:
    """In the child: time of ours over the baseline's, the median over rounds.

    Nothing but torch, timm and the registered names: any commit of this package has them.
    """
    import timm
    import torch

    import tcformer  # registers the names

    assert Path(tcformer.__file__).is_relative_to(os.environ["PYTHONPATH"]), "another build"
    names, _, words = case.partition(":")
    numbers = [int(word) for word in re.findall(r"\b\d+\b", words)]
    batch, size = [*numbers, 224][:2]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = [torch.rand(batch, 3, size, size) for _ in range(4)]
    dtype = torch.bfloat16 if "bf16" in words else None

    def step_of(name: str):
        model = timm.create_model(name).train("training" in words)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

        def step(number: int) -> None:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                if not model.training:
                    with torch.inference_mode():
                        model(images[number % 4])
                    return
                loss = model(images[number % 4]).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    ours, baseline = (step_of(name) for name in names.split("/"))

    def seconds(step, number: int, calls: int) -> float:
        begin = time.perf_counter()
        for call in range(calls):
            step(number + call)
        return (time.perf_counter() - begin) / calls

    once = max(seconds(step, 0, 1) and seconds(step, 1, 1) for step in (ours, baseline))
    calls = max(1, round(LEAST / once))
    ratios = [seconds(ours, n, calls) / seconds(baseline, n, calls) for n in range(rounds)]
    return statistics.median(ratios)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(sys.argv[2], *map(int, sys.argv[3:]))))
    else:
        raise SystemExit(main())
