#!/bin/sh
# torch.onnx.export rounds Python numbers in float64 arithmetic to float32.
#
# Versions: torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11.
# Behaviour: in a model whose tensors are all float64, Python numbers become float32 constants that are
#   cast to double. 0.1 comes out as 0.10000000149011612, and numbers beyond float32's range become
#   infinite: clamp(-1e39, 1e39) lets inf pass. A constant that is a float64 tensor is kept.
# Guess: the file agrees with PyTorch to 1e-15 of the values, as its inputs and outputs are double.
# Seen (PyTorch, the file): clamp of inf to 1e39: 1e39, inf; 0.1 in where, masked_fill, full_like and as a
#   factor: 0.1, 0.10000000149011612; 1 + 0.1: 1.1, 1.1000000014901161; a tensor of 0.1 as factor: 0.1, 0.1.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 \
    onnxruntime==1.32.0 numpy==2.4.6
"$folder/env/bin/python" -W ignore - "$folder/model.onnx" 2>"$folder/said" <<'PY' || { cat "$folder/said"; exit 1; }
import sys

import onnxruntime
import torch

TENTH = torch.tensor(0.1, dtype=torch.float64)
OPERATORS = {
    "clamp": lambda x: x.clamp(-1e39, 1e39),
    "where": lambda x: torch.where(x < 0, x, 0.1),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.1),
    "full_like": lambda x: torch.full_like(x, 0.1),
    "product": lambda x: x.clamp(max=1.0) * 0.1,
    "sum": lambda x: x.clamp(max=1.0) + 0.1,
    "tensor": lambda x: x.clamp(max=1.0) * TENTH,
}


class Every(torch.nn.Module):
    def forward(self, x):
        return tuple(operator(x) for operator in OPERATORS.values())


x = torch.tensor([float("inf")], dtype=torch.float64)
torch.onnx.export(Every().eval(), (x,), sys.argv[1], dynamo=True, verbose=False)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
seen = {}
for name, ours, theirs in zip(OPERATORS, Every()(x), found, strict=True):
    assert theirs.dtype == "float64", (name, theirs.dtype)
    seen[name] = (ours.item(), theirs.item())
    print(f"{name:<12} PyTorch {ours.item()!r}, the file {theirs.item()!r}")
rounded = 0.10000000149011612
EXPECTED = {
    "clamp": (1e39, float("inf")),
    "where": (0.1, rounded),
    "masked_fill": (0.1, rounded),
    "full_like": (0.1, rounded),
    "product": (0.1, rounded),
    "sum": (1.1, 1.1000000014901161),
    "tensor": (0.1, 0.1),
}
raise SystemExit(seen != EXPECTED)
PY
