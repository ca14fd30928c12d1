"""A small classifier."""

import pytest
import torch

from tcformer import create_model
from tcformer.weights.metadata import save_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file of weights of three classes at 32 px."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = create_model("tcformer_nano", num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_weights(network, path, {"classes": "blue\nlilac and grün\nred", "input_size": 32})
    return path
