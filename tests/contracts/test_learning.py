"""benchmarks/learning.py trains, records, and leaves alone what is done."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys

import pytest
from pages import ROOT

from tcformer.training.configfile import read_config


def learn(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "learning.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_run_is_recorded_once(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = ["digits", "--models", "tcformer_nano", "pvt_v2_b0", "--seeds", "3", "--epochs", "1"]
    words += ["--warmup-epochs", "0", "--jobs", "1"]
    words += ["--output", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
    first = learn(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    again = learn(*words)
    assert again.stdout.count("(was there already)") == 2, again.stdout + again.stderr
    for model in ("tcformer_nano", "pvt_v2_b0"):
        text = (tmp_path / "records" / f"digits-{model}-seed3.json").read_text()
        record = json.loads(text)
        assert (record["status"], record["model"], record["seed"]) == ("finished", model, 3)
        assert len(record["epochs"]) == 1
        assert str(tmp_path) not in text
        assert f"{record['epochs'][-1]['test_acc1']:.2f} %" in again.stdout


@pytest.mark.slow
def test_a_run_that_fails_is_named(tmp_path):
    words = ["cifar10", "--data-path", str(tmp_path), "--models", "tcformer_nano"]
    done = learn(*words, "--output", str(tmp_path / "records"), "--work", str(tmp_path / "work"))
    assert done.returncode == 1
    assert "cifar10-tcformer_nano-seed0: status 2. error: CIFAR-10 is not in" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cifar10"], "needs --data-path"),
        (["digits", "--models", "tcformer_light"], "digits is trained with tcformer_nano"),
    ],
)
def test_words_that_do_not_fit_are_refused(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["learning.py", *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "benchmarks" / "learning.py"), run_name="__main__")
    assert (left.value.code, said in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize("folder", ["digits", "cifar10"])
def test_the_grid_twin_is_trained_by_the_same_recipe(folder):
    """A recipe of one network alone would compare recipes, not networks."""
    own = {"model", "output_dir", "part_grids"}
    recipes = {
        path.stem: {k: v for k, v in read_config(path).items() if k not in own}
        for path in (ROOT / "configs" / folder).glob("*.py")
        if path.stem != "cpu"
    }
    assert {"tcformer_nano", "tcformerv2_nano", "pvt_v2_b0"} <= recipes.keys()
    assert all(recipe == recipes["tcformer_nano"] for recipe in recipes.values())
