"""The blocks of docs/dense.md run, one after the other, as a reader would run them."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dense.md").read_text()


def test_every_block_runs(capsys):
    pytest.importorskip("segmentation_models_pytorch", reason="the extra `dense` is not installed")
    pytest.importorskip("transformers", reason="the extra `dense` is not installed")
    torch.manual_seed(0)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 6
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/dense.md, block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "loss_mask" in printed
    assert "tensors loaded from the state dict; prefix 'neck.' removed" in printed


def test_the_table_of_recipes_names_every_one():
    recipes = {path.name for path in (ROOT / "configs" / "detection").glob("*_coco.py")}
    assert set(re.findall(r"`(\w+_coco\.py)`", PAGE)) == recipes
