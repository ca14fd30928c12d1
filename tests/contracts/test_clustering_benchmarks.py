"""benchmarks/sweep.py and tokens.py: what clustering costs, what it brings, where tokens lie."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from pages import ROOT


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sweep

    yield sweep
    sys.modules.pop("sweep")


def call(sweep, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, words)])
    return sweep.main()


def test_the_usual_setting_comes_first_and_once(sweep):
    chosen = sweep.settings([0.1, 0.25], [5, 8])
    assert [str(setting) for setting in chosen] == ["ratio0.25-k5", "ratio0.1-k5", "ratio0.25-k8"]
    assert {str(sweep.turned(chosen, number)[0]) for number in range(3)} == set(map(str, chosen))


def test_neighbours_are_never_more_than_tokens(sweep):
    digits = sweep.shapes(sweep.network("tcformer_nano", sweep.Setting(0.25, 12)), 32)
    assert digits["tokens"] == [64, 16, 4, 1]
    assert digits["neighbours"] == [12, 12, 4]
    parts = sweep.shapes(sweep.network("tcformerv2_nano", sweep.Setting(0.25, 12)), 64)
    assert parts["neighbours"] == [12, 12, 12]
    assert parts["tokens"] == [256, 64, 16, 4]


def test_the_log_tells_which_epoch_the_best_weights_are_of(sweep, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "read_checkpoint", lambda _: SimpleNamespace(meta={}))
    lines = [{"test_acc1": 50.0}, {"test_acc1": 60.0}, {}, {"test_acc1": 60.0}]
    (tmp_path / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.json").write_text('{"epochs": 5}')
    found = sweep.weights_of(tmp_path / "best.safetensors")
    assert found == {
        "checkpoint": tmp_path.name, "tensors_sha256": None, "epochs": 2, "of_epochs": 5,
    }  # fmt: skip
    assert sweep.weights_of(tmp_path / "other.pth", "mine") == {
        "checkpoint": "mine", "tensors_sha256": None,
    }  # fmt: skip


def test_what_cannot_be_is_refused_in_a_sentence(sweep, monkeypatch, capsys):
    assert call(sweep, monkeypatch, "train", "cifar10") == 2
    assert "cifar10 needs --data-path" in capsys.readouterr().err
    assert call(sweep, monkeypatch, "time", "--neighbors", 0, "--rounds", 1) == 2
    assert "k must be an integer from 1" in capsys.readouterr().err


def test_a_run_that_learning_has_finished_is_not_trained_again(
    sweep, monkeypatch, tmp_path, capsys
):
    trained = []
    monkeypatch.setattr(sweep, "train_once", lambda name, *_: trained.append(name) or True)
    monkeypatch.setattr(sweep, "RESULTS", tmp_path)
    monkeypatch.setattr(sweep, "finished", lambda path: 99.0 if path.parent == LEARNED else None)
    LEARNED = tmp_path / "learning"
    given = SimpleNamespace(set="digits", model="tcformer_nano", epochs=None, data_path=None,
                            work=tmp_path, output=tmp_path)  # fmt: skip
    assert sweep.train_setting(given, sweep.Setting(0.25, 5), 0)
    assert trained == []
    assert sweep.train_setting(given, sweep.Setting(0.5, 5), 0)
    given.epochs = 1  # another recipe than that of the run which is there
    assert sweep.train_setting(given, sweep.Setting(0.25, 5), 0)
    assert trained == [f"digits-tcformer_nano-{s}-seed0" for s in ("ratio0.5-k5", "ratio0.25-k5")]
    assert "trained by benchmarks/learning.py" in capsys.readouterr().out


@pytest.mark.slow
def test_train_evaluate_and_time_make_records(sweep, monkeypatch, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = ["train", "digits", "--ratios", "--neighbors", "--seeds", 3, "--epochs", 1]
    words += ["--work", tmp_path / "work", "--output", tmp_path / "records"]
    assert call(sweep, monkeypatch, *words) == 0
    (path,) = (tmp_path / "records").iterdir()
    assert path.name == "digits-tcformer_nano-ratio0.25-k5-seed3.json"
    trained = json.loads(path.read_text())
    assert (trained["status"], trained["config"]["k"], trained["seed"]) == ("finished", 5, 3)
    capsys.readouterr()
    assert call(sweep, monkeypatch, *words) == 0
    assert "(was there already)" in capsys.readouterr().out

    weights = tmp_path / "work" / path.stem / "best.safetensors"
    words = ["evaluate", "--config", "configs/digits/tcformer_nano.py", "--checkpoint", weights]
    words += ["--ratios", 0.5, "--neighbors", 40]
    assert call(sweep, monkeypatch, *words, "--output", tmp_path / "e.json") == 0
    text = (tmp_path / "e.json").read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert (record["checkpoint"], record["images"]) == (path.stem, 360)
    assert (record["epochs"], record["of_epochs"], len(record["tensors_sha256"])) == (1, 1, 64)
    usual, half, far = record["rows"]
    assert (usual["ratio"], usual["k"], usual["same_answer"]) == (0.25, 5, 100)
    assert usual["top1"] == pytest.approx(trained["best"]["acc1"])
    assert (half["tokens"], far["neighbours"]) == ([64, 32, 16, 8], [40, 16, 4])
    assert call(sweep, monkeypatch, *words, "--images", 70, "--output", tmp_path / "f.json") == 0
    assert json.loads((tmp_path / "f.json").read_text())["images"] == 70

    words = ["time", "--ratios", "--neighbors", 2, "--rounds", 1, "--output", tmp_path / "t.json"]
    assert call(sweep, monkeypatch, *words) == 0
    sizes = json.loads((tmp_path / "t.json").read_text())["sizes"]
    assert [(size["size"], len(size["rows"])) for size in sizes] == [
        ("32x32", 2), ("64x64", 2), ("224x224", 2),
    ]  # fmt: skip


@pytest.fixture
def tokens(sweep):
    import tokens

    yield tokens
    sys.modules.pop("tokens")


def test_sizes_and_controls_of_a_known_drawing(tokens):
    # 16 x 16 pixels: the left half one token, the cells of the right half one each; the second
    # image is the mirror image of the first in all respects.
    left = np.array([0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0, 0, 7, 8])
    right = left.reshape(4, 4)[:, ::-1].reshape(-1)
    detail = np.zeros((16, 16))
    detail[:, 8:] = 10
    found = tokens.measured([left, right], [detail, detail[:, ::-1]])
    assert found["count"] == 9
    assert found["area"]["one_cell"] == pytest.approx(100 * 8 / 9)
    assert found["area"]["doublings"] == pytest.approx([8 / 9, 0, 0, 1 / 9], abs=1e-6)
    assert found["area"]["largest"]["mean"] == 128
    for weigh in ("tokens", "cells"):
        ways = found["correlation"][weigh]
        assert (ways["own"]["mean"], ways["own"]["sd"], ways["own"]["negative"]) == (-1, 0, 100)
        assert ways["another_image"]["mean"] == 1
        assert ways["grid"] == {"defined": 0}
    assert [one["defined"] for one in found["log2_area_by_tenth"]] == [0, 0, 2, 0, 0, 0, 0, 2, 0, 0]
    assert found["log2_area_by_tenth"][2]["mean"] == 7


def test_a_summary_leaves_out_what_is_not_defined(tokens):
    found = tokens.summary([-1.0, float("nan"), 0.5, 2.0])
    assert (found["defined"], found["mean"], found["median"]) == (3, 0.5, 0.5)
    assert found["sd"] == pytest.approx(1.5)
    assert found["negative"] == pytest.approx(33.3333)


@pytest.mark.slow
def test_the_tokens_of_networks_make_a_record(tokens, monkeypatch, tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = ["--config", "configs/digits/tcformer_nano.py", "--images", 60, "--random", 2]
    monkeypatch.setattr(
        sys, "argv", ["tokens.py", *map(str, words), "--output", f"{tmp_path}/t.json"]
    )
    assert tokens.main() == 0
    kept = json.loads((tmp_path / "t.json").read_text())
    assert (kept["images"], kept["size"], kept["data"]["name"]) == (60, "32x32", "digits")
    assert [row["weights"] for row in kept["networks"]] == [{"random": 0}, {"random": 1}]
    stages = kept["networks"][0]["stages"]
    assert [(stage["stage"], stage["count"]) for stage in stages] == [(2, 16), (3, 4), (4, 1)]
    for stage in stages:
        assert stage["area"]["mean"] == pytest.approx(1024 / stage["count"])
        assert sum(stage["area"]["doublings"]) == pytest.approx(1, abs=1e-4)
    assert stages[0]["correlation"]["tokens"]["own"]["defined"] > 50
    assert stages[2]["correlation"]["tokens"]["own"] == {"defined": 0}  # one token
