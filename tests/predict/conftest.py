"""A small classifier, as a network, as a file and as what is loaded from it."""

import pytest
import torch

from tcformer import create_model
from tcformer.predict import load
from tcformer.weights.metadata import save_weights


@pytest.fixture(scope="session")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return create_model("tcformer_nano", num_classes=3).eval()


@pytest.fixture(scope="session")
def weights(network, tmp_path_factory):
    """A file of weights of three classes at 32 px."""
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_weights(network, path, {"classes": "blue\nlilac and grün\nred", "input_size": 32})
    return path


@pytest.fixture(scope="session")
def model(weights):
    return load(checkpoint=weights)
