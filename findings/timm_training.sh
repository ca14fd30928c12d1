#!/bin/sh
# timm's losses under bfloat16 autocast on a CPU, and the power of its polynomial schedule.
#
# Versions: timm 1.0.31, torch 2.15.0, torchvision 0.29.2, numpy 2.4.6, Python 3.11.
# Behaviour 1: under torch.autocast("cpu", torch.bfloat16) LabelSmoothingCrossEntropy computes in
#   bfloat16, and SoftTargetCrossEntropy its log_softmax; F.cross_entropy, with the same smoothing, runs
#   in float32 there.
# Behaviour 2: create_scheduler_v2(sched="poly") takes `decay_rate`, by default 0.1 and the factor of a
#   step in other schedules, as the power of the polynomial: the rate hardly falls.
# Guess: the losses agree in all digits shown, under autocast too; "poly" falls about linearly, with a
#   power of 0.9 or 1.
# Seen: 6.8837 for each loss in float32; under autocast 6.8837 by F.cross_entropy, 6.8750 by
#   LabelSmoothingCrossEntropy, 6.8842 by SoftTargetCrossEntropy. Half way of "poly" the rate is 0.933 of
#   the first, with decay_rate=0.9 it is 0.536.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'PY'
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.scheduler import create_scheduler_v2

torch.manual_seed(0)
scores = (torch.randn(8, 1000) * 0.5).bfloat16()  # exact in both precisions
labels = torch.arange(8)
soft = torch.full((8, 1000), 0.1 / 1000)
soft[labels, labels] += 0.9
losses = {
    "torch": lambda x: F.cross_entropy(x, labels, label_smoothing=0.1),
    "timm, labels": lambda x: LabelSmoothingCrossEntropy(0.1)(x, labels),
    "timm, soft": lambda x: SoftTargetCrossEntropy()(x, soft),
}
seen = {}
for name, loss in losses.items():
    exact = loss(scores.float()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss(scores).item()
    seen[name] = (round(exact, 4), round(rounded, 4))
    print(f"{name:<13} float32 {exact:.4f}, under autocast {rounded:.4f}")

for rate in (None, 0.9):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    more = {} if rate is None else {"decay_rate": rate}
    schedule, _ = create_scheduler_v2(
        optimizer, sched="poly", num_epochs=100, warmup_epochs=0, min_lr=0.0, **more
    )
    schedule.step(50)
    seen[rate] = round(optimizer.param_groups[0]["lr"], 3)
    print(f"poly, half way, decay_rate {rate}: {seen[rate]}")
raise SystemExit(
    seen != {
        "torch": (6.8837, 6.8837),
        "timm, labels": (6.8837, 6.875),
        "timm, soft": (6.8837, 6.8842),
        None: 0.933,
        0.9: 0.536,
    }
)
PY
