"""`tcformer bench`: measure models and ops side by side; the work is in `tcformer.bench`."""

from __future__ import annotations

import argparse
from typing import Any

from tcformer.cli.parser import Parser
from tcformer.errors import UserError

KINDS = ("ops", "data", "suite", "plot")
"""What can be measured (or drawn) instead of models."""

QUICK = {"rounds": 2, "warmup": 1}
DEFAULTS = {
    "device": "auto",
    "dtype": "float32",
    "rounds": 10,
    "warmup": 3,
    "budget": float("inf"),
}

MEASURES = "models ops data suite"


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer bench --help`."""
    options = parse(argv)
    from tcformer.bench.run import run

    return run(options, argv)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read and check the options, without importing torch."""
    parser = _parser()
    options = parser.parse_args(argv)
    _refuse_what_is_not_read(options, parser)
    for name, value in {**DEFAULTS, **(QUICK if options.quick else {})}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.rounds < 5 and not options.quick:
        raise UserError(
            f"tcformer bench: --rounds must be at least 5, not {options.rounds}: the spread of "
            "fewer says nothing; --quick makes a trial run."
        )
    for name, least in (("rounds", 1), ("warmup", 0), ("batch", 1), ("size", 16), ("threads", 1)):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < least:
                raise UserError(f"tcformer bench: --{name} must be at least {least}, not {value}.")
    if not options.budget > 0:
        raise UserError(
            f"tcformer bench: --budget must be more than 0 seconds, not {options.budget:g}."
        )
    return options


def _refuse_what_is_not_read(options: argparse.Namespace, parser: Parser) -> None:
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) > 1:
        raise UserError(f"tcformer bench: --{kinds[0]} and --{kinds[1]} are two runs; choose one.")
    kind = kinds[0] if kinds else "models"
    for action in parser._actions:
        if action.dest in given and kind not in action.readers:  # type: ignore[attr-defined]
            run = f"--{kind}" if kinds else "comparing models"
            option = action.option_strings[0]
            raise UserError(f"tcformer bench: {option} has no effect on {run}; leave it out.")
    if kind == "ops" and options.sweep == "batch":
        raise UserError("tcformer bench: --ops takes --sweep resolution, or sizes by --batch.")
    if kind == "data":
        for name in ("models", "batch", "size"):
            if len(getattr(options, name) or ()) > 1:
                raise UserError(f"tcformer bench: --data takes one value of --{name}.")


def _parser() -> Parser:
    parser = Parser(
        "bench",
        epilog="A model is NAME[+TRAIT...]: NAME one of ours or of timm's, TRAIT compile, graph "
        "(replayed from a CUDA graph), cast (weights in half precision beforehand, not at every "
        "call), tf32 or published (TCFormer as the published code computes it). "
        "All of them take turns in one process. Times are compared within a round; the figures "
        "are median and quartiles of these ratios. docs/performance.md says more.",
    )
    group = parser.add_argument_group("what to measure (models, if nothing else is named)")

    def add(name: str, readers: str, told: str, **given: Any) -> None:
        """Declare an option that these kinds of run read; any other refuses it."""
        action: Any = group.add_argument(f"--{name}", help=told, **given)
        action.readers = readers.split()

    pairs = "tcformer beside pvt_v2_b2, tcformer_light beside pvt_v2_b1"
    add("models", "models data", f"models side by side ({pairs})", nargs="+", metavar="NAME")
    add("against", "models", "the model to divide by (the PVTv2 of the same size)", metavar="NAME")
    told = "every implementation of these ops (of all), on the features that the network has there"
    add("ops", "ops", told, nargs="*", metavar="OP")
    told = "the input pipeline, one process, on drawn images or a folder's; does it feed --models?"
    add("data", "data", told, nargs="?", const="", metavar="FOLDER")
    told = "all figures that the project has goals for, with verdicts; gpu: below 8 minutes"
    add("suite", "suite", told, choices=("cpu", "gpu"))
    add("part", "suite", "only these parts, such as training", nargs="+", metavar="NAME")
    told = "draw records: time against resolution, images a second against accuracy"
    add("plot", "plot", told, nargs="+", metavar="RECORD")
    told = "a forward pass, or a step with backward (and AdamW, for models); both if left out"
    add("mode", "models ops", told, nargs="+", choices=("inference", "training"))
    numbers: dict[str, Any] = {"type": int, "nargs": "+"}
    add("batch", "models ops data", "images at once (1 and 8)", metavar="N", **numbers)
    add("size", "models ops data", "side of the images (224)", metavar="PIXELS", **numbers)
    told = "sizes from 224 to 2048 pixels, or batch sizes; what does not fit in memory is left out"
    add("sweep", "models ops", told, choices=("resolution", "batch"))
    told = "also the time of each phase: stem, stage 1, CTM 1, ..., head (eager inference)"
    add("phases", "models", told, action="store_true")

    group = parser.add_argument_group("how")
    add("device", MEASURES, "auto, cpu, cuda, cuda:N or mps (auto)")
    told = "precision, the half ones by autocast (float32)"
    add("dtype", "models data", told, choices=("float32", "bf16", "fp16"))
    add("compile", "models", "torch.compile every model; timed separately", action="store_true")
    add("channels-last", "models", "images and weights in that order", action="store_true")
    told = "CPU threads (torch's choice; --suite cpu: 2)"
    add("threads", MEASURES, told, type=int, metavar="N")
    told = "photographs to feed in; drawn pictures with calm and detailed parts if left out"
    add("images", "models ops suite", told, metavar="FOLDER")
    add("rounds", "models ops data", "turns of each, 5 or more (10)", type=int, metavar="N")
    add("warmup", "models ops data", "calls before timing (3)", type=int, metavar="N")
    told = "begin no further round of a case after this time; three are made in any case"
    add("budget", "models ops data", told, type=float, metavar="SECONDS")
    told = "tiny sizes, to see that everything works; no record"
    add("quick", MEASURES, told, action="store_true")
    told = (
        "folder or .json file of the record (benchmarks/results), or picture of --plot (bench.svg)"
    )
    add("output", f"{MEASURES} plot", told, metavar="PLACE")
    return parser
