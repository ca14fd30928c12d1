#!/bin/sh
# What PyTorch's own counter of operations says of attention on a CPU, and of a depthwise filter's gradient.
#
# Versions: torch 2.11.0 and 2.15.0.
# Behaviour 1: FlopCounterMode counts scaled_dot_product_attention on a CPU as 0 in 2.11, and right in 2.15.
# Behaviour 2: the gradient of a convolution's filter is counted as if there were no groups: for a depthwise
#   convolution C times what is executed, in both versions. Forward and the gradient of the input are right.
# Guess: attention counts the same on every device, and each of two gradients as much as the forward pass.
# Seen (2 x 8 channels, 16 x 16): forward 73728; backward 663552 = 9 forwards where 2 are executed.
#   Attention of 2 x 32 x 8 by 32 keys: 0 in 2.11, 65536 in 2.15.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
for version in 2.11.0 2.15.0; do
    uv venv -q --python 3.11 "$folder/$version"
    uv pip install -q --python "$folder/$version" "torch==$version" numpy
    "$folder/$version/bin/python" -W ignore - <<'PY'
import sys

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


x = torch.randn(2, 8, 16, 16, requires_grad=True)
weight = torch.randn(8, 1, 3, 3, requires_grad=True)
forward = counted(lambda: F.conv2d(x, weight, padding=1, groups=8))
out = F.conv2d(x, weight, padding=1, groups=8)
backward = counted(lambda: out.sum().backward())
q = torch.randn(1, 2, 32, 8)
with torch.no_grad():
    attention = counted(lambda: F.scaled_dot_product_attention(q, q, q))
print(f"{torch.__version__}: convolution {forward}, its gradients {backward}, attention {attention}")
right = 0 if torch.__version__.startswith("2.11") else 4 * 2 * 32 * 32 * 8
sys.exit((forward, backward, attention) != (2 * 9 * 2 * 8 * 256, 9 * forward, right))
PY
done
