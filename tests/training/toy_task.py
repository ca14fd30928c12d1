"""A task small enough to train in milliseconds, with everything random that a real one has."""

from __future__ import annotations

import torch
from torch import nn

from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.training import checkpoint as ckpt
from tcformer.training.config import TrainConfig
from tcformer.training.loop import fit
from tcformer.weights.metadata import save_weights

BASE = TrainConfig().replace(
    epochs=3, batch_size=4, warmup_epochs=1, lr=0.05, save_every=0, device="cpu", num_workers=0
)


def config(**changes) -> TrainConfig:
    return BASE.replace(**changes)


class ToyTask:
    """Regress noise with an MLP with dropout; `losses` keeps every loss, `stop_at` interrupts."""

    metric = "acc1"
    lower_is_better = False

    def __init__(self, cfg: TrainConfig, steps: int = 5, stop_at: int | None = None) -> None:
        ckpt.seed_everything(cfg.run.seed, 0)
        self.cfg = cfg
        self.model = nn.Sequential(
            nn.Linear(6, 8), nn.LayerNorm(8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 3)
        )
        self.steps_per_epoch = steps
        self.stop_at = stop_at
        self.losses: list[float] = []
        self.seen: list[tuple[int, int]] = []
        self.poison_at: int | None = None
        self.evaluations = 0

    def batches(self, epoch, start):
        for number in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(1000 * epoch + number)
            x = torch.randn(self.cfg.data.batch_size, 6, generator=generator)
            y = torch.randn(self.cfg.data.batch_size, 3, generator=generator)
            if self.poison_at == len(self.losses):
                x[0, 0] = float("nan")
            if self.stop_at == len(self.losses):
                interrupt.request("SIGTERM")
            self.seen.append((epoch, number))
            yield x, y

    def loss(self, model, batch):
        x, y = batch
        loss = (model(x).float() - y).square().mean()
        self.losses.append(loss.item())
        return loss

    def follow(self, said, weights, where):
        return []

    def describe(self, batch):
        return ["a.png", "b.png"]

    def evaluate(self, model, log, autocast):
        model.eval()
        self.evaluations += 1
        log.add("loss")
        with torch.no_grad(), autocast():
            value = float(model(torch.ones(1, 6)).float().square().sum())
        for _ in log.log_every([0], 1, "Test:"):
            log.meters["loss"].update(value)
        return {"loss": value, "acc1": 100 / (1 + value), "acc5": 100.0}

    def report(self, result):
        return [f"* Acc@1 {result['acc1']:.3f}"]

    def epoch_facts(self):
        return {}

    def about(self):
        return {"classes": ["a", "b", "c"]}

    def facts_for_record(self):
        return {"task": "toy", "metric": self.metric}

    def load_weights(self, model, weights, where):
        model.load_state_dict(weights)

    def save_weights(self, state_dict, path):
        save_weights(state_dict, path)

    def fake_batch(self, size):
        return torch.randn(size, 6), torch.randn(size, 3)


def train(cfg: TrainConfig, **kw) -> ToyTask:
    """Train from a fresh process's point of view."""
    interrupt.clear()
    task = ToyTask(cfg, **kw)
    ckpt.seed_everything(cfg.run.seed, 0)
    fit(task, cfg, World())
    return task


def same(a, b) -> bool:
    """Whether two states are equal, tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
