"""`tcformer bench`: measure models and ops side by side; the work is in `tcformer.bench`."""

from __future__ import annotations

import argparse

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError

HELP = VERBS["bench"]

KINDS = ("ops", "data", "suite", "plot")
"""What can be measured (or drawn) instead of models."""

_EVERYWHERE = {"device", "threads", "quick", "output"}
_TIMING = {"rounds", "warmup", "budget"}
HONORED = {
    "models": _EVERYWHERE
    | _TIMING
    | {"models", "against", "mode", "batch", "size", "sweep", "phases", "dtype", "compile"}
    | {"channels_last", "images"},
    "ops": _EVERYWHERE | _TIMING | {"ops", "mode", "batch", "size", "sweep", "images"},
    "data": _EVERYWHERE | _TIMING | {"data", "models", "batch", "size", "dtype"},
    "suite": _EVERYWHERE | {"suite", "part", "images"},
    "plot": {"plot", "output"},
}
"""Kind of run -> the options that it reads; any other is refused."""

QUICK = {"rounds": 2, "warmup": 1}
DEFAULTS = {
    "device": "auto",
    "dtype": "float32",
    "rounds": 10,
    "warmup": 3,
    "budget": float("inf"),
}


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer bench --help`."""
    options = parse(argv)
    from tcformer.bench.run import run

    return run(options, argv)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read and check the options, without importing torch."""
    options = _parser().parse_args(argv)
    _refuse_what_is_not_read(options)
    defaults = {**DEFAULTS, **(QUICK if options.quick else {})}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.rounds < 5 and not options.quick:
        raise UserError(
            f"tcformer bench: --rounds must be at least 5, not {options.rounds}: the spread of "
            "fewer says nothing; --quick makes a trial run."
        )
    for name, least in (("rounds", 1), ("warmup", 0), ("batch", 1), ("size", 16)):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < least:
                raise UserError(f"tcformer bench: --{name} must be at least {least}, not {value}.")
    if not options.budget > 0:
        raise UserError(
            f"tcformer bench: --budget must be more than 0 seconds, not {options.budget:g}."
        )
    return options


def _refuse_what_is_not_read(options: argparse.Namespace) -> None:
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) > 1:
        raise UserError(f"tcformer bench: --{kinds[0]} and --{kinds[1]} are two runs; choose one.")
    kind = kinds[0] if kinds else "models"
    unread = sorted(given - HONORED[kind])
    if unread:
        option = f"--{unread[0].replace('_', '-')}"
        run = f"--{kind}" if kinds else "comparing models"
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
    _add_what(parser.add_argument_group("what to measure (models, if nothing else is named)"))
    _add_how(parser.add_argument_group("how"))
    return parser


def _add_what(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="models side by side, such as tcformer pvt_v2_b2 swin_tiny_patch4_window7_224 "
        "resnet50; if left out, tcformer beside pvt_v2_b2 and tcformer_light beside pvt_v2_b1",
    )
    what.add_argument(
        "--against",
        metavar="NAME",
        help="the model that the others are divided by; if left out, the PVTv2 of the same size",
    )
    what.add_argument(
        "--ops",
        nargs="*",
        metavar="OP",
        help="every implementation of these ops (of all, if none is named), on the features that "
        "the network hands them",
    )
    what.add_argument(
        "--data",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="the input pipeline in one process, for each decoder, on the images of a folder or on "
        "drawn ones; and whether it feeds a training step of --models NAME (tcformer)",
    )
    what.add_argument(
        "--suite",
        choices=("cpu", "gpu"),
        help="all figures that the project has goals for, with verdicts; gpu: below 8 minutes",
    )
    what.add_argument(
        "--part", nargs="+", metavar="NAME", help="only these parts of the suite, such as training"
    )
    what.add_argument(
        "--plot",
        nargs="+",
        metavar="RECORD",
        help="draw records: time against resolution, images a second against accuracy",
    )
    what.add_argument(
        "--mode",
        nargs="+",
        choices=("inference", "training"),
        help="a forward pass, or a whole step with backward and AdamW (ops: forward, or forward "
        "and backward); both if left out",
    )
    what.add_argument("--batch", type=int, nargs="+", metavar="N", help="images at once (1 and 8)")
    what.add_argument(
        "--size", type=int, nargs="+", metavar="PIXELS", help="side of the images (224)"
    )
    what.add_argument(
        "--sweep",
        choices=("resolution", "batch"),
        help="a row of sizes from 224 to 2048 pixels at batch 1, or a row of batch sizes; what "
        "would not fit into memory is left out and named",
    )
    what.add_argument(
        "--phases",
        action="store_true",
        help="also the time of each phase: stem, stage 1, CTM 1, ..., head (eager inference)",
    )


def _add_how(how: argparse._ArgumentGroup) -> None:
    how.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps (auto)")
    how.add_argument(
        "--dtype",
        choices=("float32", "bf16", "fp16"),
        help="precision, the half ones by autocast (float32)",
    )
    how.add_argument(
        "--compile", action="store_true", help="torch.compile every model; timed separately"
    )
    how.add_argument(
        "--channels-last", action="store_true", help="images and weights in channels-last order"
    )
    how.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (torch's choice; --suite cpu: 2)"
    )
    how.add_argument(
        "--images",
        metavar="FOLDER",
        help="photographs to feed in; if left out, drawn pictures with calm and detailed parts",
    )
    how.add_argument("--rounds", type=int, metavar="N", help="turns of each model, 5 or more (10)")
    how.add_argument("--warmup", type=int, metavar="N", help="calls before anything is timed (3)")
    how.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="begin no further round of a case after this time; three are made in any case",
    )
    how.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that everything works; no record"
    )
    how.add_argument(
        "--output",
        metavar="PLACE",
        help="folder (or file ending in .json, replaced at the end) for the record; "
        "benchmarks/results if left out. "
        "With --plot the picture, .svg, .png or .pdf (bench.svg)",
    )
