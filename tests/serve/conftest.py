"""One running server for all tests that look at the page, and one Chromium a file."""

import pytest
import torch
from serving import NASTY, Served, chromium

from tcformer.weights.metadata import save_weights
from tcformer.zoo import create_model


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A server of two random networks and a checkpoint; `test_process` ends it."""
    folder = tmp_path_factory.mktemp("serve")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = create_model("tcformerv2_nano", num_classes=len(NASTY))
    file = folder / "own.safetensors"
    save_weights(model, file, {"classes": "\n".join(NASTY), "input_size": 224})
    options = ["--model", "tcformer_nano", "tcformerv2_nano", "--max-upload", "1"]
    running = Served(folder, *options, "--checkpoint", str(file))
    yield running
    running.close()
    assert running.called() == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One for the tests of a file: while it lives, asyncio is taken in this thread."""
    with chromium(tmp_path_factory.mktemp("chromium")) as context:
        yield context
