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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    parser.add_argument("--commit", required=True, help="the build to compare with")
    parser.add_argument("--turns", type=int, default=5, help="processes of each build")
    parser.add_argument("--rounds", type=int, default=5, help="turns within a process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.cases, options.rounds, options.threads)))
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory(prefix="compare-") as place:
        old = Path(place, "old")
        added = subprocess.run([*git, "add", "--detach", old, options.commit], capture_output=True)
        if added.returncode:
            raise SystemExit(f"error: {added.stderr.decode().strip()}")
        try:
            for case in options.cases:
                pairs = [
                    [child(build, case, options) for build in (ROOT, old)]
                    for _ in range(options.turns)
                ]
                new_, old_ = zip(*pairs, strict=True)
                change = spread([a / b for a, b in pairs])
                told = f"new {spread(new_)}, old {spread(old_)}, new / old {change}"
                print(f"{case}: {told}", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", old], check=True)


def spread(values: list[float] | tuple[float, ...]) -> str:
    """Median and quartiles."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def child(build: Path, case: str, options: argparse.Namespace) -> float:
    """The ratio of one process with the sources below `build`."""
    environment = {
        **os.environ, "PYTHONPATH": str(build / "src"), "THP_MEM_ALLOC_ENABLE": "1",
        "OMP_NUM_THREADS": str(options.threads),
    }  # fmt: skip
    words = [sys.executable, __file__, "--commit", "", "--child", case]
    words += ["--rounds", str(options.rounds), "--threads", str(options.threads)]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: {case} failed with the sources of {build}")
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
    batch, size = [*map(int, re.findall(r"\b\d+\b", words)), 224][:2]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = [torch.rand(batch, 3, size, size) for _ in range(4)]

    def step_of(name: str):
        model = timm.create_model(name).train("training" in words)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

        def step(number: int) -> None:
            with (
                torch.autocast("cpu", torch.bfloat16, enabled="bf16" in words),
                torch.inference_mode(not model.training),
            ):
                out = model(images[number % 4])
            if model.training:
                out.float().square().mean().backward()
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
    calls = max(1, round(0.3 / once))  # a turn of 0.3 seconds at least
    ratios = [seconds(ours, n, calls) / seconds(baseline, n, calls) for n in range(rounds)]
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
