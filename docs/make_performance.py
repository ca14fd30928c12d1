"""Put the figures of the newest records into the tables of docs/performance.md.

`make docs` calls this; a test compares the page with the records.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from learning_records import processor

HERE = Path(__file__).parent
RECORDS = HERE.parent / "benchmarks" / "results"


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
"""Figure of the suite -> what two quiet runs of the same build gave on a processor of the kind
`OTHER`, as told by those who made them. A record of such a machine takes their place."""


def newest(kind: str) -> dict[str, Any]:
    """The newest record of a kind: by date in the name, then by the number after it."""

    def age(path: Path) -> tuple[str, int]:
        number = re.search(r"-cpu-(\d+)$", path.stem)
        return path.name[:10], int(number[1]) if number else 1

    files = [f for f in RECORDS.glob(f"*-{kind}-cpu*.json") if re.search(r"cpu(-\d+)?$", f.stem)]
    path = max(files, key=age)
    return {"file": path.name, **json.loads(path.read_text())}


def ladder(record: dict[str, Any]) -> str:
    """Steps of the ladder down, batches and modes across."""
    rows = record["ladder"]
    heads = [f"{row['mode']}, batch {row['batch']}" for row in rows]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(rows) + 1) + "|"]
    for step in rows[0]["ratios"]:
        cells = [spread(row["ratios"][step]) for row in rows]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + source(record)


def suite(record: dict[str, Any]) -> str:
    """The bounds and what was measured."""
    lines = [f"| figure | measured | {OTHER} | must | goal |", "|---" * 5 + "|"]
    for row in record["verdicts"]:
        if row["value"] is None:
            continue
        must, goal = (bound(row, row[name]) for name in ("must", "goal"))
        unit = f" {row['unit']}" if row["unit"] else ""
        cells = (f"{row['value']:.2f}{unit}", ELSEWHERE.get(row["text"], "-"), must, goal)
        lines.append(f"| {row['text']} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n{source(record)}\n{elsewhere()}"


def elsewhere() -> str:
    """Whose the figures of the other machine are."""
    return (
        f"{OTHER}: two quiet runs of the same build on such a machine, as given by those who made "
        "them; no record of it is kept here yet.\n"
    )


def bound(row: dict[str, Any], value: float | None) -> str:
    """A bound with its direction; a dash where there is none."""
    return "-" if value is None else f"{'>=' if row['at_least'] else '<='} {value:.2f}"


def resolution(record: dict[str, Any]) -> str:
    """Sizes down, models across: ratio, milliseconds, memory."""
    names = list(record["rows"][0]["models"])
    heads = [f"`{name}`" for name in names]
    lines = [f"| pixels | {' | '.join(heads)} |", "|---" * (len(names) + 1) + "|"]
    for row in record["rows"]:
        cells = []
        for name in names:
            found = row["models"].get(name)
            cells.append("not run" if found is None else cell(found))
        lines.append(f"| {row['size']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + source(record)


def cell(found: dict[str, Any]) -> str:
    """Ratio, time and memory of one model."""
    time = f"{found['seconds']['median'] * 1e3:,.0f} ms, {found['peak_extra_bytes'] / 1e6:,.0f} MB"
    return time if found["ratio"] is None else f"**{found['ratio']['median']:.2f}**; {time}"


def spread(ratio: dict[str, float]) -> str:
    """Median and quartiles."""
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def source(record: dict[str, Any]) -> str:
    """Where the figures come from."""
    return (
        f"\n`benchmarks/results/{record['file']}`: `{record['command']}`, {record['date']}, "
        f"{processor(record)}, {record['machine']['capability']}, two threads, "
        f"torch {record['versions']['torch']}, timm {record['versions']['timm']}.\n"
    )


TABLES = {"ladder": ladder, "suite-cpu": suite, "resolution": resolution}


def page(text: str) -> str:
    """The page with every table between its marks made anew."""
    for kind, table in TABLES.items():
        mark = re.compile(rf"(<!-- {kind} -->\n).*?(<!-- end -->)", re.S)
        text, count = mark.subn(lambda m, t=table, k=kind: f"{m[1]}\n{t(newest(k))}\n{m[2]}", text)
        assert count == 1, f"docs/performance.md needs one place for the table {kind!r}"
    return text


def main() -> None:
    """Write the page."""
    path = HERE / "performance.md"
    path.write_text(page(path.read_text()))


if __name__ == "__main__":
    main()
