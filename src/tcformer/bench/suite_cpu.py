"""What issue 3 wants to know of a CPU: ratios, memory, the cost curve. Minutes to half an hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tcformer.bench import models
from tcformer.bench.contenders import Setting, create, parse
from tcformer.bench.suites import Bound, Part, Result

GB = 1e9

BASE = {1: (1.15, 1.0), 8: (1.35, 1.0)}
LIGHT = {1: (1.8, 1.25), 8: (1.8, 1.25)}
"""Batch -> most time relative to the PVTv2 of the same size: must, goal."""

TRAINING = 1.25
LARGE = 2.2
LARGE_GB = 1.0
BF16 = 1.6

THREADS = 2
"""What the bounds were set for."""


@dataclass(frozen=True)
class Scale:
    """Sizes of the suite; the quick ones only show that its logic works."""

    base: tuple[str, str] = ("tcformer", "pvt_v2_b2")
    light: tuple[str, str] = ("tcformer_light", "pvt_v2_b1")
    batches: tuple[int, int] = (1, 8)
    size: int = 224
    large: int = 1024
    curve: Sequence[int] = (224, 384, 512, 768, 1024, 1536, 2048)
    rounds: int = 10
    seconds: float = 90.0
    turn: float | None = None
    compiled: bool = True


QUICK = Scale(
    ("tcformer_nano", "pvt_v2_b0"),
    ("tcformer_nano", "pvt_v2_b0"),
    (1, 2),
    64,
    96,
    (32, 64),
    2,
    5.0,
    0.0,
    False,
)


class Suite:
    """The parts; ratios throughout, our model over its PVTv2."""

    def __init__(self, device: torch.device, scale: Scale, folder: Path | None = None) -> None:
        self.device = device
        self.scale = scale
        self.folder = folder

    def parts(self) -> list[Part]:
        """Those with bounds first, the curve last."""
        found = [
            self._pairs("base", self.scale.base, BASE, ""),
            self._pairs("light", self.scale.light, LIGHT, ""),
            Part("training", self._training, [self._bound("training", "training step", TRAINING)]),
            Part("large", self._large, self._large_bounds()),
            Part("bf16", self._bf16, [self._bound("bf16", "bf16 autocast", BF16)]),
            Part("published", self._published, self._published_bounds()),
        ]
        if self.scale.compiled:
            found += [
                self._pairs("base compiled", self.scale.base, BASE, "+compile"),
                self._pairs("light compiled", self.scale.light, LIGHT, "+compile"),
            ]
        return [*found, Part("curve", self._curve, [])]

    def _bound(self, figure: str, text: str, must: float) -> Bound:
        ours, theirs = self.scale.base
        batch = self.scale.batches[1]
        return Bound(figure, f"{text}, batch {batch}: {ours} / {theirs}", "", must)

    def _pairs(
        self,
        name: str,
        pair: tuple[str, str],
        bounds: dict[int, tuple[float, float]],
        trait: str,
    ) -> Part:
        ours, theirs = (f"{one}{trait}" for one in pair)
        limits = list(bounds.values())

        def run(result: Result) -> None:
            for batch in self.scale.batches:
                row = self._compare(result, [ours, theirs], batch=batch, with_phases=not trait)
                self._ratio(result, row, f"{name} {batch}")

        return Part(
            name,
            run,
            [
                Bound(f"{name} {batch}", f"inference, batch {batch}: {ours} / {theirs}", "", *limit)
                for batch, limit in zip(self.scale.batches, limits, strict=True)
            ],
        )

    def _compare(self, result: Result, names: Sequence[str], **changes: Any) -> dict[str, Any]:
        """Compare contenders, the last one being the baseline, and keep the row."""
        chosen = [parse(name) for name in names]
        scale = self.scale
        options = {"with_phases": changes.pop("with_phases", False)}
        options["budget"] = changes.pop("budget", scale.seconds)
        setting: dict[str, Any] = {"batch": 1, "size": scale.size} | changes
        row = models.compare(
            chosen,
            chosen[-1].label,
            Setting(self.device, **setting),
            rounds=scale.rounds,
            folder=self.folder,
            turn=scale.turn,
            keep_going=True,
            **options,
        )
        result.rows.append(row)
        return row

    @staticmethod
    def _ratio(result: Result, row: dict[str, Any], figure: str) -> None:
        """The ratio of the first model to the last one."""
        labels = list(row["models"])
        found = models.ratio(row, labels[0], row["baseline"]) if len(labels) > 1 else None
        if found is not None:
            result.figures[figure] = found["median"]

    def _training(self, result: Result) -> None:
        batch = self.scale.batches[1]
        row = self._compare(result, self.scale.base, mode="training", batch=batch)
        self._ratio(result, row, "training")

    def _large_bounds(self) -> list[Bound]:
        ours, theirs = self.scale.base
        text = f"{self.scale.large} px, batch 1, exact"
        return [
            Bound("large", f"{text}: {ours} / {theirs}", "", LARGE),
            Bound("large_gb", f"{text}: extra memory", "GB", LARGE_GB),
        ]

    def _large(self, result: Result) -> None:
        row = self._compare(
            result, self.scale.base, size=self.scale.large, budget=2 * self.scale.seconds
        )
        self._ratio(result, row, "large")
        one = row["models"].get(self.scale.base[0])
        if one and one["peak_extra_bytes"] is not None:
            result.figures["large_gb"] = one["peak_extra_bytes"] / GB

    def _bf16(self, result: Result) -> None:
        row = self._compare(result, self.scale.base, batch=self.scale.batches[1], dtype="bf16")
        self._ratio(result, row, "bf16")
        row["clustered_dtypes"] = sorted(self._clustered_dtypes())

    def _clustered_dtypes(self) -> set[str]:
        """The types of what the three CTMs cluster under bf16 autocast."""
        setting = Setting(self.device, size=self.scale.size)
        model = create(parse(self.scale.base[0]), setting)
        found: set[str] = set()
        for number in (1, 2, 3):
            model.get_submodule(f"ctm{number}").register_forward_hook(
                lambda module, arguments, result: found.add(str(result[1].tokens.x.dtype))
            )
        images = torch.randn(1, 3, setting.size, setting.size, device=self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16):
            model(images)
        return found

    def _published_bounds(self) -> list[Bound]:
        return [
            Bound(
                f"published {batch}",
                f"inference, batch {batch}: times the published style",
                at_least=True,
            )
            for batch in self.scale.batches
        ]

    def _published(self, result: Result) -> None:
        ours = self.scale.base[0]
        for batch in self.scale.batches:
            row = self._compare(result, [ours, f"{ours}+published"], batch=batch)
            found = models.ratio(row, f"{ours}+published", ours)
            if found is not None:
                result.figures[f"published {batch}"] = found["median"]

    def _curve(self, result: Result) -> None:
        """Time and memory from small to large, the published style as far as it goes."""
        ours, theirs = self.scale.base
        slow = 0.0
        for size in self.scale.curve:
            names = [ours, f"{ours}+published", theirs]
            if slow > self.scale.seconds / 10:
                names.remove(f"{ours}+published")  # it would take the rest of the day
            row = self._compare(result, names, size=size, budget=self.scale.seconds / 2)
            published = row["models"].get(f"{ours}+published")
            if published is not None:
                slow = published["seconds"]["median"]
