"""Fill the tables of the pages from the records under benchmarks/results: `make docs`.

A page has two comments, `<!-- NAME -->` and `<!-- end -->`; what stands between them is replaced by
what `TABLES[NAME]` returns. Sentences are written by people, outside these comments.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from tcformer.processor import label

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results"
Record = dict[str, Any]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], after: str = "") -> str:
    """A table in Markdown, and what follows it."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n" + after


def read(path: Path) -> Record:
    """A record with its place below benchmarks/results."""
    return {"file": str(path.relative_to(RECORDS)), **json.loads(path.read_text())}


def newest(kind: str) -> Record:
    """The newest record of a kind: by date in the name, then by the number after it."""

    def order(path: Path) -> tuple[str, int]:
        number = re.search(r"-cpu-(\d+)$", path.stem)
        return path.name[:10], int(number[1]) if number else 1

    return read(max(RECORDS.glob(f"*-{kind}-cpu*.json"), key=order))


SAID = {"2026-11-22-suite-cpu-cpu.json": "Zen 5"}
"""Record -> its processor where the record holds the name alone: said by those who made it."""


def source(record: Record) -> str:
    """Where figures come from, in one line."""
    said = SAID.get(record["file"])
    processor = label(record["machine"]) + (f" ({said}, said by those who ran it)" if said else "")
    threads = record["settings"]["torch threads"]
    return (
        f"\n`benchmarks/results/{record['file']}`: `{record['command']}`, {record['date']}, "
        f"{processor}, {record['machine']['capability']}, "
        f"{threads} thread{'s' * (threads > 1)}, torch {record['versions']['torch']}.\n"
    )


def spread(one: Mapping[str, float]) -> str:
    """Median and quartiles."""
    return f"{one['median']:.2f} ({one['low']:.2f}-{one['high']:.2f})"


def short(value: float) -> str:
    """1.2e-5: two digits and no zero in the exponent."""
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}" if value else "0"


# --- docs/performance.md ---------------------------------------------------------------------

OTHER = "Zen 4 (family 25, model 17)"
ELSEWHERE = {
    "inference, batch 1: tcformer / pvt_v2_b2": "0.78 and 1.01",
    "inference, batch 8: tcformer / pvt_v2_b2": "0.91 and 1.17",
    "inference, batch 1: tcformer_light / pvt_v2_b1": "1.02 to 1.14",
    "inference, batch 8: tcformer_light / pvt_v2_b1": "1.21 to 1.45",
    "training step, batch 8: tcformer / pvt_v2_b2": "0.93 to 1.03",
    "1024 px, batch 1, exact: tcformer / pvt_v2_b2": "2.03",
    "bf16 autocast, batch 8: tcformer / pvt_v2_b2": "1.44 to 1.52",
}
"""Figure -> what two quiet runs of the same build gave on a processor of the kind `OTHER`, as told
by those who made them. A record of such a machine takes their place."""


def bounds() -> str:
    """What the CPU suite measured, and its bounds."""
    record = newest("suite-cpu")
    rows = []
    for row in (row for row in record["verdicts"] if row["value"] is not None):
        sign = ">=" if row["at_least"] else "<="
        limits = ["-" if v is None else f"{sign} {v:.2f}" for v in (row["must"], row["goal"])]
        value = f"{row['value']:.2f} {row['unit']}".strip()
        rows.append((row["text"], value, ELSEWHERE.get(row["text"], "-"), *limits))
    kind = SAID.get(record["file"]) or label(record["machine"])
    return table(("figure", kind, OTHER, "must", "goal"), rows, source(record))


def ladder() -> str:
    """The network with more and more of the kernels."""
    record = newest("ladder")
    rows = record["ladder"]
    heads = ("", *(f"{row['mode']}, batch {row['batch']}" for row in rows))
    steps = [(step, *(spread(row["ratios"][step]) for row in rows)) for step in rows[0]["ratios"]]
    return table(heads, steps, source(record))


def resolution() -> str:
    """Ratio, time and memory of each model at each size."""
    record = newest("resolution")
    names = list(record["rows"][0]["models"])

    def cell(row: Record, name: str) -> str:
        one = row["models"].get(name)
        if one is None:
            return "not run"
        ratio = "" if one["ratio"] is None else f"**{one['ratio']['median']:.2f}**; "
        seconds, extra = one["seconds"]["median"], one["peak_extra_bytes"]
        return f"{ratio}{seconds * 1e3:,.0f} ms, {extra / 1e6:,.0f} MB"

    rows = [(f"{row['size']}", *(cell(row, name) for name in names)) for row in record["rows"]]
    return table(("pixels", *(f"`{name}`" for name in names)), rows, source(record))


# --- docs/results.md: trainings beside PVTv2 -------------------------------------------------

NANO = ("tcformer_nano", "tcformerv2_nano", "pvt_v2_b0")
LIGHT = ("tcformer_light", "tcformerv2_light", "pvt_v2_b1")
SETS = {"digits": NANO, "cifar10": NANO, "cifar10-light": LIGHT}

OWN = {
    "model", "part_grids", "seed", "output_dir", "record", "resume", "data_path", "num_workers",
    "threads", "pin_mem", "dist_url", "world_size",
}  # fmt: skip
"""Options in which the runs of one set may differ; by all others they are trained alike."""


def is_whole(run: Record) -> bool:
    """Whether a training came to the end of its schedule: only then does it count."""
    epochs = run["config"]["epochs"] + run["config"].get("cooldown_epochs", 0)
    return run["status"] == "finished" and len(run["epochs"]) == epochs


def trainings(folder: Path = RECORDS / "learning") -> dict[str, dict[str, list[Record]]]:
    """Set -> network -> its finished runs, by seed.

    Raises:
        ValueError: a name that tells of another run than its record, a set or network that has no
            table, or runs of one set that were not trained alike.
    """
    found: dict[str, dict[str, list[Record]]] = {}
    first: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        name = re.fullmatch(r"(.+)-([a-z0-9_]+)-seed(\d+)", path.stem)
        if name is None or run["kind"] != "training" or name[2] not in SETS.get(name[1], ()):
            raise ValueError(f"{path.name} is no training that docs/results.md has a table for")
        if (run["model"], run["config"]["model"], str(run["seed"])) != (name[2], name[2], name[3]):
            raise ValueError(f"{path.name} holds a run of {run['model']} with seed {run['seed']}")
        other = first.setdefault(name[1], run)
        # An option that is newer than a record had no effect on it.
        for option in sorted(run["config"].keys() & other["config"].keys() - OWN):
            if run["config"][option] != other["config"][option]:
                raise ValueError(f"{path.name} differs from its set in {option}")
        if run["data"] != other["data"]:
            raise ValueError(f"{path.name} was trained or measured on other data than its set")
        if is_whole(run):
            found.setdefault(name[1], {}).setdefault(name[2], []).append(run)
    return found


def top1(run: Record) -> float:
    """After the last epoch, per cent."""
    return float(run["epochs"][-1]["test_acc1"])


def mean_and_spread(values: Sequence[float]) -> str:
    """The spread is the sample standard deviation over seeds."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def learned(name: str, folder: Path = RECORDS / "learning") -> str:
    """Top-1 of each network of a set."""
    runs, rows = trainings(folder).get(name, {}), []
    for model in SETS[name]:
        cells = ["-", "not run", "-", "-"]
        if own := runs.get(model):
            values = [top1(run) for run in own]
            each = ", ".join(f"{value:.2f}" for value in values)
            minutes = median(run["processor_seconds"] for run in own) / 60
            cells = [f"{own[0]['parameters'] / 1e6:.2f} M", mean_and_spread(values), each]
            cells.append(f"{minutes:.1f} min")
        rows.append((f"`{model}`", *cells))
    return table(("network", "parameters", "top-1, %", "each seed", "processor time"), rows)


# --- docs/results.md: fine-tuning ------------------------------------------------------------

TUNED = {
    "frozen": "the classifier alone",
    "full": "all of the network",
    "scratch": "all of it, from random weights",
}


def tuned(kind: str) -> str:
    """Accuracy and time of each way to fine-tune."""
    record = newest(kind)
    rows = []
    for row in record["runs"]:
        each = ", ".join(f"{value:.1f}" for value in row["accuracy"])
        accuracy = f"{mean(row['accuracy']):.1f} % ({each})"
        rows.append((TUNED[row["name"]], accuracy, f"{median(row['seconds']):.0f} s"))
    if "constant" in record:
        rows.append(("nothing: always the same answer", f"{record['constant']:.1f} %", "-"))
    return table(("trained", "top-1", "processor time"), rows, source(record))


# --- docs/results.md: the keep ratio, k, and the size of tokens ------------------------------

BASE = (0.25, 5)
"""Keep ratio and k of all published models."""
DATA = {"CIFAR10": "CIFAR-10", "IMNET": "photographs", "digits": "digits"}
Setting = tuple[float, int]


@cache
def clustering(name: str) -> list[Record]:
    """Records below benchmarks/results/clustering."""
    return [read(path) for path in sorted((RECORDS / "clustering").glob(f"{name}.json"))]


def setting(row: Record) -> Setting:
    """Keep ratio and k."""
    return row["ratio"], row["k"]


def swept() -> dict[Setting, dict[int, float]]:
    """Setting -> seed -> top-1 on the digits of networks that were trained with it."""
    found: dict[Setting, dict[int, float]] = {}
    for run in [*clustering("digits-*"), *trainings()["digits"]["tcformer_nano"]]:
        config = run["config"]
        merges_as = (config["keep_ratio"] or [BASE[0]])[0], config["k"] or BASE[1]
        if is_whole(run):
            found.setdefault(merges_as, {})[run["seed"]] = top1(run)
    return found


def in_order(settings: Iterable[Setting]) -> dict[Setting, str]:
    """Settings and what they are called: keep ratios first, the baseline among them, then k."""
    found = {}
    for one in sorted(settings, key=lambda one: (one[1] != BASE[1], *one)):
        found[one] = f"keep ratio {one[0]:g}" if one[1] == BASE[1] else f"k = {one[1]}"
    return found | {BASE: "**keep ratio 0.25, k = 5**"}


def cost() -> str:
    """Time, tokens and GFLOPs of each setting, and what networks trained with it reach."""
    (record,), reached = clustering("time"), swept()
    sizes = [{setting(row): row for row in one["rows"]} for one in record["sizes"]]
    rows = []
    for one, called in in_order(sizes[0]).items():
        at = sizes[-1][one]
        ratios = [f"{size[one]['ratio_to_usual']['median']:.2f}" for size in sizes[:-1]]
        tokens = ", ".join(map(str, at["tokens"]))
        cells = [called, *ratios, spread(at["ratio_to_usual"]), tokens, f"{at['gflops']:.2f}", "-"]
        if seeds := reached.get(one):
            apart = mean(value - reached[BASE][seed] for seed, value in seeds.items())
            cells[-1] = f"{mean(seeds.values()):.2f} ({apart:+.2f})"
        rows.append(cells)
    heads = [f"{one['size'].split('x')[0]} px" for one in record["sizes"]]
    heads += ["tokens at 224 px", "GFLOPs", "digits, trained so"]
    return table(("", *heads), rows, source(record))


def evaluated() -> dict[str, list[Record]]:
    """Data and model -> evaluations of networks that were trained with the baseline."""
    found: dict[str, list[Record]] = {}
    for record in clustering("evaluate-*"):
        name = f"{DATA[record['data']['name']]}, `{record['model']}`"
        found.setdefault(name, []).append(record)
    return found


def merging() -> str:
    """Top-1 with another setting than in training, and the share of unchanged answers."""
    found = evaluated()
    settings = {setting(row) for records in found.values() for row in records[0]["rows"]}
    rows = []
    for one, called in in_order(settings).items():
        cells = [called]
        for records in found.values():
            same = [row for record in records for row in record["rows"] if setting(row) == one]
            top, answers = (mean(row[what] for row in same) for what in ("top1", "same_answer"))
            cells.append(f"{top:.2f} ({answers:.1f})")
        rows.append(cells)
    return table(("", *found), rows)


def kinds(record: Record) -> dict[str, list[Record]]:
    """Model and whether it is trained -> networks of a record of tokens."""
    found: dict[str, list[Record]] = {}
    for row in record["networks"]:
        weights = "random weights" if "random" in row["weights"] else "trained"
        found.setdefault(f"`{row['model']}`, {weights}", []).append(row)
    return found


def correlation(rows: list[Record], weigh: str, of: str, what: str, stage: int = 2) -> float | None:
    """The mean over networks of a figure of the correlation; None where none has it."""
    each = [row["stages"][stage - 2]["correlation"][weigh][of].get(what) for row in rows]
    there = [value for value in each if value is not None]
    return mean(there) if there else None


def tokens() -> str:
    """Sizes of the tokens after the first merge, and how they go with the detail below."""
    rows = []
    for record in clustering("tokens-*"):
        for name, networks in kinds(record).items():

            def told(form: str, *path: str, networks: list[Record] = networks) -> str:
                (*of, words) = path
                return form.format(*(correlation(networks, *of, what) for what in words.split()))

            quantiles = [network["stages"][0]["area"]["quantiles"] for network in networks]
            rows.append(
                (
                    f"{DATA[record['data']['name']]}, {name}",
                    ", ".join(f"{mean(q[i] for q in quantiles):.0f}" for i in (1, 5, 9, 10)),
                    told("{:+.2f} ± {:.2f}", "tokens", "own", "mean sd"),
                    told("{:.0f}", "tokens", "own", "defined") + f" of {record['images']}",
                    told("{:.0f} %", "tokens", "own", "negative"),
                    told("{:+.2f} ± {:.2f}", "insides", "own", "mean sd"),
                    told("{:+.2f} ± {:.2f}", "tokens", "another_image", "mean sd"),
                )
            )
    sizes, other = "10 %, 50 %, 90 %, largest, px", "another image's tokens"
    heads = ("images, network", sizes, "correlation", "images", "negative", "insides", other)
    return table(heads, rows)


# --- docs/results.md: training beside the published code -------------------------------------

PARTED, LAST = "0.0001", 100
"""The difference of the loss from which runs count as parted; steps that the end has."""


def gap(record: Record, name: str, base: str = "float64") -> list[float]:
    """Differences of the loss between two runs, step by step."""
    losses = (record["variants"][one]["losses"] for one in (name, base))
    return [abs(a - b) for a, b in zip(*losses, strict=True)]


def beside_float64(record: Record, name: str) -> Record:
    """What the record says of a run and the float64 run."""
    (pair,) = (p for p in record["pairs"] if p["pair"] == ["float64", name])
    return pair


def flip(record: Record, name: str) -> int | None:
    """The first step at which a partition differs from the float64 run's."""
    flips = beside_float64(record, name)["first_flip"].values()
    return min((step for step in flips if step is not None), default=None)


def trajectory() -> str:
    """Each run beside the published losses, beside float64, and how it ends."""
    record = newest("trajectory")
    rows = []
    for name, run in record["variants"].items():
        apart = ["-"] * 3
        if name != "float64":
            first = flip(record, name)
            steps = (beside_float64(record, name)["first"][PARTED], first)
            before = max(gap(record, name)[:first], default=0.0)
            apart = [short(before), *("never" if s is None else str(s) for s in steps)]
        end = [f"{mean(run['losses'][-LAST:]):.4f}", f"{run['held_out']['accuracy']:.1f}"]
        rows.append((run["words"], short(run["largest_from_published"]), *apart, *end))
    heads = (
        "run", "largest difference from the published losses, 40 steps",
        "from float64 before the first flip", f"steps until more than {short(float(PARTED))}",
        "first flip", f"mean loss, last {LAST} steps", "top-1 on unseen images, %",
    )  # fmt: skip
    return table(heads, rows, source(record))


# --- README.md -------------------------------------------------------------------------------

SPEED = {
    "inference, batch 1: tcformer / pvt_v2_b2": "forward, one image",
    "inference, batch 8: tcformer / pvt_v2_b2": "forward, eight images",
    "training step, batch 8: tcformer / pvt_v2_b2": "training step, eight images",
    "1024 px, batch 1, exact: tcformer / pvt_v2_b2": "forward at 1024 px, one image",
}
"""Figures of the CPU suite that the README shows, and how it calls them."""


def measured() -> str:
    """What is measured: time relative to PVTv2, and accuracies."""
    suite, letters = newest("suite-cpu"), newest("finetuning")
    values = {row["text"]: row["value"] for row in suite["verdicts"]}
    kind = SAID.get(suite["file"]) or label(suite["machine"])
    rows = []
    for text, words in SPEED.items():
        figure = f"{values[text]:.2f} on {kind}; {ELSEWHERE[text]} on Zen 4"
        rows.append((f"{words}: time of `tcformer` over `pvt_v2_b2`", figure))
    for name, words in (("digits", "digits"), ("cifar10", "CIFAR-10")):
        for model in SETS[name]:
            runs = trainings()[name][model]
            seeds, epochs = len(runs), runs[0]["config"]["epochs"]
            figure = f"{mean_and_spread([*map(top1, runs)])} %, {seeds} seed{'s' * (seeds > 1)}"
            rows.append((f"{words}, {epochs} epochs, `{model}`: top-1", figure))
    for row in letters["runs"]:
        figure = f"{mean(row['accuracy']):.1f} %"
        rows.append((f"letters, {TUNED[row['name']]}: top-1", figure))
    rows.append(("ImageNet", "not run"))
    files = (f"`benchmarks/results/{name}`" for name in (suite["file"], letters["file"]))
    told = (
        "Times: {}, 2 threads, float32; " + OTHER + " as told by those who ran it. Letters: {}. "
        "Digits and CIFAR-10: mean ± spread over the seeds, `benchmarks/results/learning`."
    )
    return table(("", "measured"), rows, f"\n{told.format(*files)}\n")


def zoo() -> str:
    """A row for each variant: counted by `tcformer flops`, the paper's figure, ours."""
    import torch

    from tcformer.models.flops import geometry, published_flops
    from tcformer.models.sizes import VARIANTS
    from tcformer.weights.released import RELEASED
    from tcformer.zoo import create_model

    reported = {e.architecture: e.paper for e in RELEASED.values() if "ImageNet" in e.task}
    rows = []
    for name in VARIANTS:
        with torch.device("meta"):
            model = create_model(name)
        parameters = f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M"
        flops = f"{sum(published_flops(geometry(model), 224, 224).values()) / 1e9:.2f}"
        figure = re.search(r"[\d.]+ %", reported.get(name, ""))
        paper = "ours, not in the paper" if "nano" in name else "not known"
        # A figure of ours enters the last column together with a record.
        rows.append((f"`{name}`", parameters, flops, figure[0] if figure else paper, "not run"))
    top = "ImageNet-1k top-1"
    heads = ("model", "parameters", "GFLOPs at 224 px", f"{top}, the paper")
    return table((*heads, f"{top}, measured by us"), rows)


# --- docs/reliability.md ---------------------------------------------------------------------


def promises() -> list[Record]:
    """The promises of docs/reliability.toml, in its order."""
    return list(tomllib.loads((ROOT / "docs" / "reliability.toml").read_text())["promise"])


def campaigns() -> dict[str, Record]:
    """Campaign -> its newest record."""
    records = (read(path) for path in sorted(RECORDS.glob("*-faults-*.json")))
    return {record["campaign"]: record for record in records}


def counted(promise: Record, kept: Mapping[str, Record]) -> Record:
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


def reliability() -> str:
    """A row for each part of the promises: how many, and what was tried."""
    kept, rows = campaigns(), []
    for part in dict.fromkeys(promise["part"] for promise in promises()):
        found = [counted(one, kept) for one in promises() if one["part"] == part]
        # A test that holds two promises counts once.
        cases = {name: row for each in found for name, row in each.items()}
        trials, failures = (sum(row[k] for row in cases.values()) for k in ("trials", "failures"))
        open_ = f" ({found.count({})} not recorded)" if {} in found else ""
        rows.append((part, f"{len(found)}{open_}", f"{trials:,}", str(failures)))
    return table(("", "promises", "trials and cases", "failures"), rows)


# ---------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[], str]] = {
    "measured": measured,
    "zoo": zoo,
    "bounds": bounds,
    "ladder": ladder,
    "resolution": resolution,
    **{name: partial(learned, name) for name in SETS},
    "letters": partial(tuned, "finetuning"),
    "photographs": partial(tuned, "photographs"),
    "cost of a setting": cost,
    "merging": merging,
    "tokens": tokens,
    "trajectory": trajectory,
    "reliability": reliability,
}


def pages() -> list[Path]:
    """Pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A page with the table between each pair of comments made anew."""
    mark = re.compile(r"<!-- ([\w -]+) -->\n.*?<!-- end -->", re.S)
    return mark.sub(lambda m: f"<!-- {m[1]} -->\n\n{TABLES[m[1]]()}\n<!-- end -->", text)


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text()))
