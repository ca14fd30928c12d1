"""benchmarks/learning.py trains, records, and leaves alone what is done."""

from __future__ import annotations

import json
import runpy
import sys

import pytest
from pages import ROOT

from tcformer.training.configfile import read_config


def learn(monkeypatch, *words: object) -> int | str | None:
    """The status of the script with these words."""
    monkeypatch.setattr(sys, "argv", ["learning.py", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "benchmarks" / "learning.py"), run_name="__main__")
    return left.value.code


@pytest.mark.slow
def test_a_run_is_recorded_once(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = ["digits", "--models", "tcformer_nano", "--seeds", "3", "--epochs", "1"]
    words += ["--warmup-epochs", "0", "--batch-size", "512"]
    words += ["--output", tmp_path / "records", "--work", tmp_path / "work"]
    assert learn(monkeypatch, *words) == 0
    capsys.readouterr()
    assert learn(monkeypatch, *words) == 0
    again = capsys.readouterr().out
    assert again.count("(was there already)") == 1
    text = (tmp_path / "records" / "digits-tcformer_nano-seed3.json").read_text()
    record = json.loads(text)
    assert (record["status"], record["model"], record["seed"]) == ("finished", "tcformer_nano", 3)
    assert len(record["epochs"]) == 1
    assert str(tmp_path) not in text
    assert f"{record['epochs'][-1]['test_acc1']:.2f} %" in again


@pytest.mark.slow
def test_a_run_that_fails_is_named(tmp_path, monkeypatch, capsys):
    words = ["cifar10", "--data-path", tmp_path, "--models", "tcformer_nano"]
    words += ["--output", tmp_path / "records", "--work", tmp_path / "work"]
    assert learn(monkeypatch, *words) == 1
    said = capsys.readouterr().out
    assert "cifar10-tcformer_nano-seed0: status 2. error: CIFAR-10 is not in" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cifar10"], "needs --data-path"),
        (["digits", "--models", "tcformer_light"], "digits is trained with tcformer_nano"),
    ],
)
def test_words_that_do_not_fit_are_refused(monkeypatch, capsys, words, said):
    assert learn(monkeypatch, *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["digits", "cifar10"])
def test_the_baseline_is_trained_by_the_same_recipe(folder):
    """A recipe of one network alone would compare recipes, not networks."""
    own = {"model", "output_dir", "part_grids"}
    recipes = {
        path.stem: {k: v for k, v in read_config(path).items() if k not in own}
        for path in (ROOT / "configs" / folder).glob("*.py")
        if path.stem != "cpu"
    }
    assert {"tcformer_nano", "tcformerv2_nano", "pvt_v2_b0"} <= recipes.keys()
    assert all(recipe == recipes["tcformer_nano"] for recipe in recipes.values())
