"""Is TCFormer right on this GPU, and how fast? One prepared run of less than eight minutes.

    python checks/references.py .carry/references.pt       # on any CPU: costs no device time
    python checks/gpu.py --references .carry/references.pt --out results --seconds 450
    python checks/gpu.py --quick --out /tmp/results        # every part on a CPU, interpreted

Correctness comes before any timing: a part that finds a wrong answer leaves out the timings that
depend on it. Each part appends a line to `results.jsonl` in the folder --out, so that a run which
is killed keeps what it found.

Exit status: 0 all is right, 1 something is wrong or was left out, 2 it cannot run here.
"""

from __future__ import annotations

import os
import sys

if "--quick" in sys.argv:  # before Triton is imported: it asks once
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import argparse
import contextlib
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import fast
import references
import right
import torch
from run import OutOfTime, Run, synchronize, time_limit

from tcformer.ops import dispatch


class Part(NamedTuple):
    """A part, the seconds it needs, and the parts that must be right before it may time."""

    run: Callable[[Run], None]
    seconds: float
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is reported."""
        return self.run.__name__


RIGHT = ("self_check", "clustering", "certificate", "gathers", "networks")
PARTS = (
    Part(right.facts, 12),
    Part(right.kernel_tests, 45),
    Part(right.self_check, 8),
    Part(right.clustering, 25),
    Part(right.certificate, 20),
    Part(right.gathers, 20),
    Part(right.networks, 35),
    Part(fast.eager_speed, 110, RIGHT),
    Part(fast.compiled, 120, RIGHT),
    Part(fast.training, 30, RIGHT),
    Part(right.sanitizer, 25),
)


def examine(run: Run, out: Path, deadline: float) -> bool:
    """Run all parts; a line in results.jsonl after each. Returns whether all went well."""
    states: dict[str, str] = {}
    with (out / "results.jsonl").open("a", encoding="utf-8") as stream:
        for part in PARTS:
            run.problems, run.numbers = [], {}
            begin = time.monotonic()
            left = deadline - begin
            missing = [name for name in part.needs if states.get(name) != "right"]
            if missing:
                state = "left out"
                run.problems = [f"depends on {', '.join(missing)}"]
            elif left < part.seconds:
                state = "left out"
                run.problems = [f"needs {part.seconds:.0f} s, {left:.0f} s are left"]
            else:
                state = _attempt(run, part, left if run.quick else min(2 * part.seconds, left))
            states[part.name] = state
            line = {
                "part": part.name,
                "state": state,
                "seconds": round(time.monotonic() - begin, 3),
                "problems": run.problems,
                "numbers": run.numbers,
            }
            stream.write(json.dumps(line, default=str) + "\n")
            stream.flush()
            print(
                f"{part.name:14} {state:9} {line['seconds']:7.1f} s",
                *run.problems[:5],
                sep="  ",
                flush=True,
            )
    return all(state == "right" for state in states.values())


def _attempt(run: Run, part: Part, limit: float) -> str:
    try:
        exact = torch.backends.cudnn.flags(allow_tf32=False)
        with time_limit(limit), contextlib.nullcontext() if part.needs else exact:
            part.run(run)
            synchronize(run)
    except OutOfTime:
        run.problems.append(f"stopped after {limit:.0f} s")
        return "left out"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        run.problems.append(
            f"{type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:500]}"
        )
        return "failed"
    return "wrong" if run.problems else "right"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--references",
        type=Path,
        default=Path(".carry/references.pt"),
        help="made by checks/references.py; made now where it is missing",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl")
    parser.add_argument("--seconds", type=float, default=450.0, help="for everything")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes on a CPU in Triton's interpreter"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if options.quick else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU here; --quick runs every part on a CPU.", file=sys.stderr)
        return 2
    path = options.out / "references.pt" if options.quick else options.references
    if options.quick or not path.is_file():
        print(f"making the references {path} on the CPU ...", flush=True)
        references.make(path, quick=options.quick)
    refs = torch.load(path, weights_only=True)
    run = Run(device, refs, options.quick)
    interpreted = dispatch.interpreted_kernels() if options.quick else contextlib.nullcontext()
    with interpreted:
        well = examine(
            run, options.out, time.monotonic() + (1e6 if options.quick else options.seconds)
        )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
