"""Figures as text: ratios first, then milliseconds, then the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tcformer.bench.models import PHASES
from tcformer.processor import label as processor_label


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return lines


def header(record: Mapping[str, Any]) -> str:
    """Machine, versions and commit."""
    machine, versions = record["machine"], record["versions"]
    place = machine.get("gpu") or f"{processor_label(machine)} ({machine['capability']})"
    commit = record["commit"] or "unknown commit"
    changed = ", sources changed since" if record["changed"] else ""
    return (
        f"{place}, {machine['cores']} cores, threads: {record['settings']['torch threads']}, "
        f"torch {versions['torch']}, timm {versions['timm']}, {commit}{changed}"
    )


def models(row: Mapping[str, Any]) -> list[str]:
    """One case of the comparison of networks."""
    layout = ", channels last" if row["channels_last"] else ""
    lines = [
        f"{row['mode']}, batch {row['batch']}, {row['size']} px, {row['dtype']}{layout}: "
        f"time relative to {row['baseline']}, {row['rounds']} rounds"
    ]
    heads = ["", "ratio", "quartiles", "ms", "images/s", "extra memory"]
    compiled = any(one["compile_seconds"] is not None for one in row["models"].values())
    table = [heads + ["compiled in"] * compiled]
    # Ours first, the baseline last.
    for label in sorted(row["models"], key=lambda label: label == row["baseline"]):
        one = row["models"][label]
        cells = [f"  {label}", *_ratio(one["ratio"], label == row["baseline"]), _ms(one)]
        cells += [f"{one['images_per_second']:.1f}", size(one["peak_extra_bytes"])]
        if compiled:
            seconds = one["compile_seconds"]
            cells.append("" if seconds is None else f"{seconds:.0f} s")
        table.append(cells)
    lines += columns(table) if row["models"] else []
    lines += [f"  {label}: left out, it {why}" for label, why in row["skipped"].items()]
    timed = {label: one["phases"] for label, one in row["models"].items() if one.get("phases")}
    if timed:
        table = [["  ms by phase", *timed]]
        for phase in PHASES:
            times = [phases.get(phase) for phases in timed.values()]
            if any(times):
                cells = ["-" if one is None else _milliseconds(one) for one in times]
                table.append([f"  {phase}", *cells])
        lines += columns(table)
    return lines


def op(row: Mapping[str, Any], found: Mapping[str, float]) -> list[str]:
    """One case of an op: implementations side by side."""
    lines = [f"{row['op']}, {row['place']}: time relative to eager, {row['rounds']} rounds"]
    table = [["", "ratio", "quartiles", "ms", "GFLOP/s", "of the best", "extra memory"]]
    best = max(found["float32"], found.get("onednn", 0.0))
    for impl, one in row["implementations"].items():
        speed = one["flops_per_second"]
        cells = ["", ""]
        if speed is not None:
            cells = [f"{speed / 1e9:.1f}", f"{100 * speed / best:.0f} %"]
        start = [f"  {impl}", *_ratio(one["ratio"], impl == "eager"), _ms(one)]
        table.append([*start, *cells, size(one["peak_extra_bytes"])])
    lines += columns(table) if len(table) > 1 else []
    return lines + [f"  {impl}: left out, {why}" for impl, why in row["skipped"].items()]


def ceilings(found: Mapping[str, float]) -> str:
    """What matrix products and a copy reach here."""
    onednn = f" (oneDNN {found['onednn'] / 1e9:.0f})" if "onednn" in found else ""
    return (
        f"ceilings here: torch.mm {found['float32'] / 1e9:.0f} GFLOP/s in float32{onednn}, "
        f"{found['bf16'] / 1e9:.0f} in bfloat16; copy {found['copy'] / 1e9:.1f} GB/s "
        "(read and written)"
    )


def pipeline(row: Mapping[str, Any]) -> list[str]:
    """Images a second of each decoder, and whether that feeds the model."""
    lines = [
        f"input pipeline, one process: {row['files']} files of {row['mean_bytes'] / 1e3:.0f} kB on "
        f"average, training transform to {row['size']} px, {row['rounds']} rounds"
    ]
    table = [["  images/s", "decode", "quartiles", "decode and transform", "quartiles"]]
    for decoder, one in row["decoders"].items():
        found = (one["decode"], one["decode_and_transform"])
        cells = [(f"{f['median']:.0f}", f"{f['low']:.0f} to {f['high']:.0f}") for f in found]
        table.append([f"  {decoder}", *cells[0], *cells[1]])
    lines += columns(table)
    lines += [f"  {decoder}: left out, {why}" for decoder, why in row["missing"].items()]
    needed, cores = row["needed_images_per_second"], row["cores"]
    if needed is None:
        return lines
    lines.append(f"a training step of {row['model']} takes {needed:.1f} images a second here:")
    for decoder, one in row["decoders"].items():
        number = one["processes_needed"]
        told = "1 process feeds it" if number == 1 else f"{number} processes feed it"
        short = f", more than the {cores} cores here: the model would wait for data"
        lines.append(f"  {decoder}: {told}{short if number > cores else ''}")
    return lines


def verdicts(entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What a suite found beside its bounds, as rows of text, the heading first."""
    rows = [["figure", "measured", "must", "goal", "verdict"]]
    for entry in entries:
        sign = ">=" if entry["at_least"] else "<="
        limits = [
            "-" if entry[kind] is None else f"{sign} {_number(entry[kind])}"
            for kind in ("must", "goal")
        ]
        value = "-" if entry["value"] is None else f"{_number(entry['value'])} {entry['unit']}"
        rows.append([entry["text"], value.strip(), *limits, entry["verdict"]])
    return rows


def _number(value: float) -> str:
    digits = 2 if value >= 0.095 else 1 - math.floor(math.log10(max(value, 1e-9)))
    return f"{value:,.0f}" if value >= 100 else f"{value:.{digits}f}"


def _ratio(ratio: Mapping[str, float] | None, is_baseline: bool) -> list[str]:
    if ratio is None:
        return ["1" if is_baseline else "-", ""]
    return [f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"]


def _ms(one: Mapping[str, Any]) -> str:
    return _milliseconds(one["seconds"]["median"])


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds >= 1e-2 else f"{seconds * 1e3:.3f}"


def size(count: float | None) -> str:
    """Bytes as people read them; a dash where nobody told."""
    if count is None:
        return "-"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
