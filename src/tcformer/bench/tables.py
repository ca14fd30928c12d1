"""Figures as text: ratios first, then milliseconds, then the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tcformer.bench.phases import PHASES
from tcformer.processor import label as processor_label


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def header(record: Mapping[str, Any]) -> list[str]:
    """Machine, versions and commit."""
    machine, versions = record["machine"], record["versions"]
    place = machine.get("gpu") or f"{processor_label(machine)} ({machine['capability']})"
    commit = record["commit"] or "unknown commit"
    changed = ", sources changed since" if record["changed"] else ""
    return [
        f"{place}, {machine['cores']} cores, threads: {record['settings']['torch threads']}, "
        f"torch {versions['torch']}, timm {versions['timm']}, {commit}{changed}"
    ]


def models(row: Mapping[str, Any]) -> list[str]:
    """One case of the comparison of networks."""
    layout = ", channels last" if row["channels_last"] else ""
    lines = [
        f"{row['mode']}, batch {row['batch']}, {row['size']} px, {row['dtype']}{layout}: "
        f"time relative to {row['baseline']}, {row['rounds']} rounds"
    ]
    table = [["", "ratio", "quartiles", "ms", "images/s", "extra memory"]]
    compiled = any(one["compile_seconds"] is not None for one in row["models"].values())
    if compiled:
        table[0].append("compiled in")
    # Ours first, the baseline last.
    order = sorted(row["models"], key=lambda label: label == row["baseline"])
    for label in order:
        one = row["models"][label]
        cells = [
            f"  {label}",
            *_ratio(one["ratio"], label == row["baseline"]),
            _ms(one["seconds"]["median"]),
        ]
        cells += [f"{one['images_per_second']:.1f}", size(one["peak_extra_bytes"])]
        if compiled:
            seconds = one["compile_seconds"]
            cells.append("" if seconds is None else f"{seconds:.0f} s")
        table.append(cells)
    if row["models"]:
        lines += columns(table)
    lines += [f"  {label}: left out, it {why}" for label, why in row["skipped"].items()]
    return lines + _phases(row)


def _phases(row: Mapping[str, Any]) -> list[str]:
    timed = {label: one["phases"] for label, one in row["models"].items() if one.get("phases")}
    if not timed:
        return []
    table = [["  ms by phase", *timed]]
    for phase in PHASES:
        if any(phase in phases for phases in timed.values()):
            cells = [_ms(phases[phase]) if phase in phases else "-" for phases in timed.values()]
            table.append([f"  {phase}", *cells])
    return columns(table)


def op(row: Mapping[str, Any], ceilings: Mapping[str, float]) -> list[str]:
    """One case of an op: implementations side by side."""
    rows = row["implementations"]
    lines = [f"{row['op']}, {row['place']}: time relative to eager, {row['rounds']} rounds"]
    table = [["", "ratio", "quartiles", "ms", "GFLOP/s", "of the best", "extra memory"]]
    for impl, one in rows.items():
        speed = one["flops_per_second"]
        cells = [f"  {impl}", *_ratio(one["ratio"], impl == "eager"), _ms(one["seconds"]["median"])]
        if speed is None:
            cells += ["", ""]
        else:
            best = max(ceilings["float32"], ceilings.get("onednn", 0.0))
            cells += [f"{speed / 1e9:.1f}", f"{100 * speed / best:.0f} %"]
        table.append([*cells, size(one["peak_extra_bytes"])])
    if rows:
        lines += columns(table)
    return lines + [f"  {impl}: left out, {why}" for impl, why in row["skipped"].items()]


def ceilings(found: Mapping[str, float]) -> list[str]:
    """What matrix products and a copy reach here."""
    onednn = f" (oneDNN {found['onednn'] / 1e9:.0f})" if "onednn" in found else ""
    return [
        f"ceilings here: torch.mm {found['float32'] / 1e9:.0f} GFLOP/s in float32{onednn}, "
        f"{found['bf16'] / 1e9:.0f} in bfloat16; copy {found['copy'] / 1e9:.1f} GB/s "
        "(read and written)"
    ]


def pipeline(row: Mapping[str, Any]) -> list[str]:
    """Images a second of each decoder."""
    lines = [
        f"input pipeline, one process: {row['files']} files of {row['mean_bytes'] / 1e3:.0f} kB on "
        f"average, training transform to {row['size']} px, {row['rounds']} rounds"
    ]
    table = [["  images/s", "decode", "quartiles", "decode and transform", "quartiles"]]
    for decoder, one in row["decoders"].items():
        cells = [f"  {decoder}"]
        for kind in ("decode", "decode_and_transform"):
            found = one[kind]
            cells += [f"{found['median']:.0f}", f"{found['low']:.0f} to {found['high']:.0f}"]
        table.append(cells)
    lines += columns(table)
    return lines + [f"  {decoder}: left out, {why}" for decoder, why in row["missing"].items()]


def _ratio(ratio: Mapping[str, float] | None, is_baseline: bool) -> list[str]:
    if ratio is None:
        return ["1" if is_baseline else "-", ""]
    return [f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds >= 1e-2 else f"{seconds * 1e3:.3f}"


def size(count: float | None) -> str:
    """Bytes as people read them; a dash where nobody told."""
    if count is None:
        return "-"
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.0f} MiB"


def joined(blocks: Iterable[Sequence[str]]) -> str:
    """Blocks of lines with an empty line between them."""
    return "\n\n".join("\n".join(block) for block in blocks)
