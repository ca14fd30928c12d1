#!/bin/sh
# Gradients of LayerNorm's float32 weights are summed in bfloat16 under autocast on a CPU.
#
# Versions: torch 2.15.0, numpy 2.4.6, Python 3.11, x86-64.
# Behaviour: on a CPU autocast leaves layer_norm in bfloat16, with float32 weights as well, and its
#   backward adds up the gradients of weight and bias over all rows in bfloat16, for each thread. A sum
#   that stops growing at 256 times its summands is lost. On a GPU autocast runs layer_norm in float32.
# Guess: gradients of float32 parameters are summed in float32: off by some tenths of a percent.
# Seen: relative error of the gradients of weight and bias, 64 channels, rounded figures of one thread
#   (2 threads share the rows and lose less):
#     2 x 784 rows: 4 %, 19 %; 8 x 3136 rows: 15 %, 92 %; on x.float() within the same autocast: 0.001 %.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" torch==2.15.0 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'PY'
import torch

torch.set_num_threads(1)


def gradients(x, upstream, autocast):
    norm = torch.nn.LayerNorm(x.shape[-1], dtype=None if autocast else x.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = norm(x)
    y.backward(upstream.to(y.dtype))
    assert autocast is False or norm.weight.grad.dtype == torch.float32
    return norm.weight.grad.double(), norm.bias.grad.double()


errors = {}
for rows in (2 * 784, 8 * 3136):
    torch.manual_seed(0)
    x = torch.randn(rows, 64).bfloat16()  # exact in all precisions
    upstream = (torch.randn(rows, 64) + 0.5).bfloat16()
    exact = gradients(x.double(), upstream, False)
    for name, given in (("bfloat16", x), ("float32", x.float())):
        found = gradients(given, upstream, True)
        errors[rows, name] = [
            ((ours - theirs).norm() / theirs.norm()).item()
            for ours, theirs in zip(found, exact, strict=True)
        ]
        weight, bias = errors[rows, name]
        print(f"{rows} rows of {name}: weight {weight:.3%}, bias {bias:.3%}")
lost = errors[1568, "bfloat16"][1] > 0.05 and min(errors[25088, "bfloat16"]) > 0.05
exact = all(error < 1e-4 for rows in (1568, 25088) for error in errors[rows, "float32"])
raise SystemExit(not (lost and exact))
PY
