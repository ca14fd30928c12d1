#!/bin/sh
# A row of oneDNN's linear layer has other bits beside other rows, up to torch 2.11; and flags() of
# torch.backends.cudnn switches cuDNN off while it switches TF32 off.
#
# Versions: torch 2.11.0 and 2.15.0, Python 3.11, x86-64 CPU with AVX2.
# Behaviour 1: mkldnn._linear_pointwise, which Inductor emits for linear layers with constant weights,
#   of 196 rows at once and of the same rows 49 at a time: other last bits with torch 2.11 (as with
#   2.9), equal bits with 2.15. F.linear (MKL) gives equal bits with all three.
# Behaviour 2: within torch.backends.cudnn.flags(allow_tf32=False), torch.backends.cudnn.enabled is
#   False: whatever is not named falls back to the defaults of `flags`, not to what was set before.
# Guess: a product's row depends on that row; a context that names one switch leaves the others.
# Seen: 2.11.0: rows differ, 2.15.0: rows agree; F.linear agrees; cuDNN off in both.
# Exits 1 when this changes (the first part also on processors where oneDNN has other kernels).
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat >"$folder/ask.py" <<'PY'
import sys

import torch

x, weight = (torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (196, 64))


def onednn(rows):
    return torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")


def mkl(rows):
    return torch.nn.functional.linear(rows, weight)


agree = [torch.equal(f(x), torch.cat([f(part) for part in x.split(49)])) for f in (onednn, mkl)]
with torch.backends.cudnn.flags(allow_tf32=False):
    within = torch.backends.cudnn.enabled
print(torch.__version__, "rows agree:", *agree, "cuDNN within:", within, "outside:",
      torch.backends.cudnn.enabled)
new = torch.__version__.startswith("2.15")
sys.exit(agree != [new, True] or within or not torch.backends.cudnn.enabled)
PY
for version in 2.11.0 2.15.0; do
    uv venv -q --python 3.11 "$folder/$version"
    uv pip install -q --python "$folder/$version" torch==$version numpy==2.3.5
    OMP_NUM_THREADS=1 "$folder/$version/bin/python" -W ignore "$folder/ask.py"
done
