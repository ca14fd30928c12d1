"""Details of docs/numerics.md that are too small for the golden values to see."""

import pytest
import torch
from torch import nn

from tcformer import create_model
from tcformer.models.tcformer import Attention


@pytest.mark.parametrize("name", ["tcformer_nano", "tcformer_light"])
def test_every_layer_norm_has_the_published_eps(name):
    with torch.device("meta"):
        model = create_model(name)
    norms = {path: m for path, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    assert len(norms) > 20
    for path, norm in norms.items():
        wide = path == "patch_embed1.norm" or path.endswith("attn.norm") or path.startswith("ctm")
        assert norm.eps == (1e-5 if wide else 1e-6), path


def test_reduced_keys_do_not_see_trailing_rows_and_columns():
    torch.manual_seed(0)
    attention = Attention(8, 2, sr_ratio=4)
    picture = torch.randn(1, 8, 9, 14)  # two windows of four rows, three of four columns
    with torch.no_grad():
        keys = attention.reduce(picture)
        picture[:, :, 8:] += 1
        picture[:, :, :, 12:] += 1
        assert torch.equal(attention.reduce(picture), keys)
        picture[:, :, 7] += 1
        assert not torch.equal(attention.reduce(picture), keys)
    assert keys.shape == (1, 2 * 3, 8)
