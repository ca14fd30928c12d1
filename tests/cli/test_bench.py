"""`tcformer bench`: what is printed, what is kept, what is refused."""

import json
import socket

import pytest
import torch

from tcformer import cli
from tcformer.bench import record
from tcformer.ops import cases
from tcformer.processor import usable_cores
from tcformer.runtime import provenance

QUICK = ["bench", "--quick", "--device", "cpu", "--size", "32", "--mode", "inference"]


SELF_CHECK = cases.failures


@pytest.fixture(autouse=True)
def _one_thread_and_no_check_of_the_ops(monkeypatch):
    monkeypatch.setattr(cases, "failures", lambda device: [])  # the check takes a second
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for each other on a busy machine
    yield
    torch.set_num_threads(before)


def test_figures_and_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/private/libfast.so")
    arguments = [*QUICK, "--threads", "1", "--phases", "--output", str(tmp_path)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "CTM 1" in out
    # The ratio is the first figure of a line.
    ratio = float(line_of(out).split()[1])
    (file,) = tmp_path.glob("*.json")
    kept = record.read(file)
    (row,) = kept["rows"]
    assert row["models"]["tcformer_nano"]["ratio"]["median"] == pytest.approx(ratio, abs=0.006)
    assert kept["machine"]["cores"] == usable_cores()
    assert kept["versions"]["torch"] == torch.__version__
    assert kept["settings"]["torch threads"] == 1
    assert kept["settings"]["THP_MEM_ALLOC_ENABLE"] in ("0", "1")
    assert kept["command"].startswith("tcformer bench --quick")
    assert {"commit", "changed", "load_average_at_start", "date"} <= set(kept)
    assert "libfast.so" in file.read_text()
    for private in ("/somewhere", str(tmp_path), socket.gethostname()):
        assert private not in file.read_text()


def line_of(out):
    """The line with the figures of the first model."""
    return next(line for line in out.splitlines() if line.startswith("  tcformer_nano"))


def test_a_trial_run_keeps_no_record_unless_told_to_and_names_a_busy_machine(capsys, monkeypatch):
    monkeypatch.setattr(record, "keep", lambda *args: pytest.fail("kept"))
    monkeypatch.setattr(provenance, "load_average", lambda: 100.0)
    assert cli.main(QUICK) == 0
    told = capsys.readouterr()
    assert "record:" not in told.out
    assert "load average is 100.00" in told.err


def test_a_missing_folder_is_a_sentence_before_anything_is_measured(tmp_path, capsys):
    assert cli.main([*QUICK, "--output", str(tmp_path / "nowhere")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "there is no folder" in told.err


def test_a_second_record_of_a_day_does_not_replace_the_first(tmp_path):
    kept = {"date": "2026-01-02", "machine": {"device": "cuda"}, "form": record.FORM}
    first = record.keep(kept, "models", tmp_path)
    second = record.keep(kept, "models", tmp_path)
    assert first.name == "2026-01-02-models-gpu.json"
    assert second.name == "2026-01-02-models-gpu-2.json"


def test_no_speed_up_is_printed_when_an_op_is_wrong(monkeypatch, capsys, tmp_path):
    from tcformer.ops.attend import eager

    monkeypatch.setattr(cases, "failures", SELF_CHECK)
    right = eager.attend
    monkeypatch.setattr(eager, "attend", lambda *args: right(*args) * 1.01)
    assert cli.main([*QUICK, "--output", str(tmp_path / "kept.json")]) == 1
    told = capsys.readouterr()
    assert "attend (eager) disagrees with its reference" in told.err
    assert line_of(told.out).split()[1] == "-"
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["rows"][0]["models"]["tcformer_nano"]["ratio"] is None
    assert kept["self_check"][0]["impl"] == "eager"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rounds", "0"], "--rounds must be at least 5"),
        (["--quick", "--rounds", "0"], "--rounds must be at least 1"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--size", "224", "-1"], "--size must be at least 16"),
        (["--budget", "0"], "--budget must be more than 0"),
        (["--warmup", "-1"], "--warmup must be at least 0"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--models", "tcformer_lihgt"], "did you mean tcformer_light"),
        (["--against", "pvt_v2_b22"], "did you mean pvt_v2_b"),
        (["--models", "tcformer+graph", "--device", "cpu"], "CUDA graphs need --device cuda"),
        (["--dtype", "half"], "argument --dtype"),
        (["--images", "nowhere"], "nowhere is not a folder"),
        (["--modle", "x"], "did you mean --mode"),
        (["--ops", "--suite", "cpu"], "--ops and --suite are two runs"),
        (["--ops", "dpc_kn"], "did you mean dpc_knn"),
        (["--ops", "--dtype", "bf16"], "--dtype has no effect on --ops"),
        (["--plot", "r.json", "--rounds", "5"], "--rounds has no effect on --plot"),
        (["--plot", "nowhere.json"], "no such file"),
        (["--part", "large"], "--part has no effect on comparing models"),
        (["--suite", "gpu", "--device", "cpu"], "needs a GPU"),
        (["--suite", "cpu", "--part", "larg"], "did you mean large"),
        (["--data", "nowhere", "--device", "cpu"], "nowhere is not a folder"),
        (["--data", "--size", "32", "64"], "takes one value of --size"),
        (["--models", "resnet50"], "name a second model"),
    ],
)
def test_mistakes_are_one_sentence(arguments, says, capsys, monkeypatch):
    monkeypatch.setattr(provenance, "load_average", lambda: 0.0)
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error


def test_ops(capsys, tmp_path):
    arguments = ["--ops", "attend", "--quick", "--device", "cpu", "--size", "32", "--batch", "1"]
    assert cli.main(["bench", *arguments, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "ceilings here: torch.mm" in out
    assert "attend, stage 4" in out
    assert "forward+backward, batch 1, 32 px" in out
    (file,) = tmp_path.glob("*-ops-cpu.json")
    kept = json.loads(file.read_text())
    assert {row["op"] for row in kept["rows"]} == {"attend"}
    assert {row["direction"] for row in kept["rows"]} == {"forward", "forward+backward"}


def test_no_ratio_of_a_wrong_implementation(monkeypatch, capsys):
    bad = cases.Check("attend", "reference", "the sum of its weights is 2")
    monkeypatch.setattr(cases, "failures", lambda device: [bad])
    arguments = ["--ops", "attend", "merge", "--quick", "--device", "cpu", "--mode", "inference"]
    assert cli.main(["bench", *arguments, "--size", "32"]) == 1
    told = capsys.readouterr()
    assert "attend (reference) disagrees" in told.err
    lines = [line.split() for line in told.out.splitlines() if line.startswith("  reference")]
    assert [line[1] for line in lines].count("-") == 3  # attend, three stages
    assert any(line[1] != "-" for line in lines)  # merge is fine


def test_the_input_pipeline(capsys, monkeypatch):
    from tcformer.bench import pipeline

    monkeypatch.setattr(pipeline, "NUM_DRAWN", 2)
    monkeypatch.setattr(pipeline, "DRAWN_SIZE", (64, 48))
    assert cli.main(["bench", "--data", "--quick", "--device", "cpu", "--size", "32"]) == 0
    out = capsys.readouterr().out
    assert "decode and transform" in out
    assert "a training step of tcformer_nano" in out
    assert "feeds it" in out or "feed it" in out


def test_a_part_of_the_gpu_suite_without_a_gpu(capsys, tmp_path):
    place = tmp_path / "kept.json"
    arguments = ["--suite", "gpu", "--quick", "--device", "cpu", "--part", "large", "latency"]
    assert cli.main(["bench", *arguments, "--output", str(place)]) == 0
    out = capsys.readouterr().out
    assert "<= 12.00" in out
    assert "not run on a GPU" in out
    kept = record.read(place)
    assert [entry["part"] for entry in kept["verdicts"]] == ["large", "large", "latency"]
    assert kept["verdicts"][0]["value"] > 0
    assert kept["verdicts"][2]["verdict"] == "not run"  # CUDA graphs
    assert "CUDA graphs need" in out
    assert kept["note"].startswith("not run on a GPU")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_whole_suite_without_a_gpu(name, tmp_path):
    arguments = ["--suite", name, "--quick", "--device", "cpu"]
    assert cli.main(["bench", *arguments, "--output", str(tmp_path / "kept.json")]) == 0
    missing = {
        e["part"] for e in record.read(tmp_path / "kept.json")["verdicts"] if e["value"] is None
    }
    graphs = {"inference", "latency", "latency compiled"}
    assert missing <= (graphs if name == "gpu" else {"large"})


def test_a_suite_judges_nothing_while_an_op_is_wrong(monkeypatch, capsys):
    bad = cases.Check("attend", "eager", "the sum of its weights is 2")
    monkeypatch.setattr(cases, "failures", lambda device: [bad])
    arguments = ["--suite", "cpu", "--quick", "--device", "cpu", "--part", "large"]
    assert cli.main(["bench", *arguments]) == 1
    out = capsys.readouterr().out
    assert out.count("refused") == 2
    assert line_of(out).split()[1] == "-"


def test_a_picture_of_a_record(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="drawing is an extra")
    sizes = ["--size", "32", "48", "--batch", "1", "--mode", "inference", "--quick"]
    record_file, picture = tmp_path / "kept.json", tmp_path / "picture.svg"
    assert cli.main(["bench", *sizes, "--device", "cpu", "--output", str(record_file)]) == 0
    assert cli.main(["bench", "--plot", str(record_file), "--output", str(picture)]) == 0
    assert "drawn: inference, batch 1, float32, cpu" in capsys.readouterr().out
    assert picture.read_text().count("<svg") == 1


def test_sweeps():
    from tcformer.bench import run
    from tcformer.cli.bench import parse

    def settings_of(*words):
        return run.Bench(parse(["--sweep", *words]), torch.device("cpu"))._settings()

    settings = settings_of("resolution", "--mode", "inference")
    assert [(one.batch, one.size) for one in settings] == [(1, size) for size in run.RESOLUTIONS]
    assert (settings[0].size, settings[-1].size) == (224, 2048)
    settings = settings_of("batch", "--mode", "training")
    assert [one.batch for one in settings] == list(run.BATCHES["cpu"])
    assert {one.size for one in settings} == {224}


def test_every_option_is_read_by_some_run():
    from tcformer.cli.bench import KINDS, _parser

    for action in _parser()._actions[1:]:  # the first is --help
        assert set(action.readers) & {"models", *KINDS}, action.dest


def test_a_suite_that_is_interrupted_keeps_its_first_parts(monkeypatch, tmp_path, capsys):
    from tcformer.bench import models

    real = models.compare

    def compare(chosen, baseline, setting, **options):
        if setting.size == 64:
            raise KeyboardInterrupt
        return real(chosen, baseline, setting, **options)

    monkeypatch.setattr(models, "compare", compare)
    place = tmp_path / "kept.json"
    arguments = ["--suite", "gpu", "--quick", "--device", "cpu", "--part", "large", "training"]
    assert cli.main(["bench", *arguments, "--output", str(place)]) == 130
    kept = record.read(place)
    assert [entry["part"] for entry in kept["verdicts"]] == ["large", "large"]
    assert kept["verdicts"][0]["value"] > 0
