#!/bin/sh
# Three lines of plain Python that torch.compile of torch 2.9 reads otherwise, or not at all.
#
# Versions: torch 2.9.0 and 2.11.0, Python 3.11, CPU.
# Behaviour 1: zip(a, b, strict=False) over lists of two lengths raises "one argument of len
#   differing": the keyword is there, so it counts as True.
# Behaviour 2: a property of a typing.NamedTuple cannot be traced; a function that does the same can.
# Behaviour 3: `value in map(f, values)` cannot be traced; any(...) over a generator can.
# Guess: what Python's documentation says of zip; that a property is a function call.
# Seen: 2.9.0: UserError, Unsupported, Unsupported; 2.11.0: all three run.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat >"$folder/ask.py" <<'PY'
import sys
from typing import NamedTuple

import torch


class Layout(NamedTuple):
    cells: torch.Tensor
    tokens: int

    @property
    def single(self):
        return self.tokens == 1


def uneven(x):
    return x * sum(a * b for a, b in [*zip([1, 2, 3], [4, 5], strict=False)])


def a_property(x):
    return x + 1 if Layout(x, 1).single else x


def in_map(x):
    return x + 1 if bool in map(type, [1, 2]) else x


def outcome(function, x):
    torch._dynamo.reset()
    try:
        torch.compile(function, backend="eager", fullgraph=True)(x)
    except Exception as error:
        return type(error).__name__
    return "runs"


x = torch.zeros(2)
seen = [outcome(uneven, x), outcome(a_property, x), outcome(in_map, x)]
print(torch.__version__, *seen)
old = torch.__version__.startswith("2.9")
sys.exit(seen != (["UserError", "Unsupported", "Unsupported"] if old else ["runs"] * 3))
PY
for version in 2.9.0 2.11.0; do
    uv venv -q --python 3.11 "$folder/$version"
    uv pip install -q --python "$folder/$version" torch==$version numpy==2.3.5 setuptools==80.9.0
    "$folder/$version/bin/python" -W ignore "$folder/ask.py"
done
