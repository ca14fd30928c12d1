#!/bin/sh
# torch.compiler.is_exporting() is True while torch.compile traces, up to torch 2.11.
#
# Versions: torch 2.11.0 and 2.15.0, Python 3.11, CPU.
# Behaviour: inside torch.compile, without any export, torch 2.11 replaces torch.compiler.is_exporting()
#   by the constant True (2.12 and later do not). Code that gives exported graphs something simpler
#   gives it to every compiled graph as well, without a word. A function of one's own that asks the
#   same and is marked assume_constant_result is run for real, and tells the two apart.
# Guess: is_exporting() is False unless torch.export is at work, as its docstring says.
# Seen: eager, compiled, compiled through the marked function, exported, exported strictly:
#   2.11.0: False True  False True True
#   2.15.0: False False False True True
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat >"$folder/ask.py" <<'PY'
import sys

import torch


@torch.compiler.assume_constant_result
def asked():
    return torch.compiler.is_exporting()


def plain(x):
    return x + 1 if torch.compiler.is_exporting() else x


def marked(x):
    return x + 1 if asked() else x


class Marked(torch.nn.Module):
    def forward(self, x):
        return marked(x)


x = torch.zeros(2)
seen = [
    bool(result[0])
    for result in (
        plain(x),
        torch.compile(plain, backend="eager", fullgraph=True)(x),
        torch.compile(marked, backend="eager", fullgraph=True)(x),
        torch.export.export(Marked(), (x,)).module()(x),
        torch.export.export(Marked(), (x,), strict=True).module()(x),
    )
]
print(torch.__version__, *seen)
old = torch.__version__.startswith("2.11")
sys.exit(seen != [False, old, False, True, True])
PY
for version in 2.11.0 2.15.0; do
    uv venv -q --python 3.11 "$folder/$version"
    uv pip install -q --python "$folder/$version" torch==$version numpy==2.3.5
    "$folder/$version/bin/python" -W ignore "$folder/ask.py"
done
