"""What the tests of every task ask of a run."""

import pytest
import torch
from processes import Family
from recorded import losses_of

from tcformer.weights.safe_torch import safe_torch_load

RUN = "import sys; from tcformer.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def resumes_exactly(tmp_path):
    """A function: stop a run in its first epoch, go on (`later` options), compare with one in a go.

    It returns the losses and the step at which the run was stopped.
    """

    def check(cfg, stop_at=0, **later):
        whole, broken = (cfg.replace(output_dir=str(tmp_path / n)) for n in ("whole", "broken"))
        losses = losses_of(whole)
        first = losses_of(broken, stop_at)
        step = safe_torch_load(tmp_path / "broken/checkpoint.pth")["step"]
        assert first + losses_of(broken.replace(resume="auto", **later)) == losses
        a, b = (safe_torch_load(tmp_path / n / "checkpoint.pth") for n in ("whole", "broken"))
        for key in ("model", "model_ema"):
            assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])
        assert (tmp_path / "whole/log.txt").read_text() == (tmp_path / "broken/log.txt").read_text()
        return losses, step

    return check


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    """`two_processes(verb, words...)`: a command on two that share the work; what each printed."""
    family = Family(tmp_path_factory.mktemp("family"), "tcformer.tasks.runner")

    def start(*words):
        ended = family.run(RUN, 2, *words)
        assert [process.status for process in ended] == [0, 0], ended[0].err
        return [process.out for process in ended]

    yield start
    family.close()
