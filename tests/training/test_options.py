"""One configuration: from files, from the command line, checked, and read to the last field."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_task import ToyTask

from tcformer.data import build_dataset
from tcformer.errors import UserError
from tcformer.sections import Section, option
from tcformer.training.config import RefusedConfig, TrainConfig
from tcformer.training.options import build, explanations, find_config, load_config, parse

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(ROOT.glob("configs/**/*.py"))

# The published options as people type them, and other spellings of some.
PUBLISHED = """
--model tcformer_light --batch-size 64 --epochs 3 --start_epoch 2 --input-size 192 --drop 0.1
--drop-path 0.3 --fp32-resume --opt sgd --opt-eps 1e-6 --opt-betas 0.8 0.99 --momentum 0.8
--weight-decay 0.1 --clip-grad 1.5 --sched step --lr 1e-3 --warmup-lr 1e-5 --min-lr 1e-6
--warmup-epochs 7 --lr-noise 0.5 0.9 --lr-noise-pct 0.5 --lr-noise-std 0.5 --decay-epochs 10
--decay-rate 0.5 --cooldown-epochs 4 --patience-epochs 10 --color-jitter 0.2 --aa rand-m7
--smoothing 0.2 --train-interpolation random --repeated-aug --reprob 0.1 --remode const --recount 2
--mixup 0.2 --cutmix 0.5 --cutmix-minmax 0.2 0.8 --mixup-prob 0.5 --mixup-switch-prob 0.4
--mixup-mode pair --finetune f.pth --data-path D --data-set CIFAR --inat-category genus
--output_dir out --device cpu --seed 3 --resume r.pth --eval --dist-eval --num_workers 2 --pin-mem
--world_size 4 --dist_url tcp://h:1
"""
SPELLED = """
--lr-noise 0.5 --dr 0.5 --color-jitter None --aa None --no-repeated-aug --data_path D
--output-dir out --no-pin-mem --num-workers 2 --keep-ratio 0.5 0.25 1
"""
OURS = """
--model tcformerv2_nano --num_clusters 100 50 20 --k 3 --part-grids 4x4 2x2 1x1 --data-path=D
"""


def read(words: str) -> TrainConfig:
    return parse(words.split(), prog="tcformer train", description="Train.")


@pytest.mark.parametrize("words", [PUBLISHED, SPELLED, OURS], ids=["published", "spelled", "ours"])
def test_options_keep_name_and_meaning(words):
    whole = read(words)
    cfg = whole.flat()
    assert build(json.loads(json.dumps(whole.to_json()))) == whole
    for name, *values in map(str.split, " ".join(words.replace("=", " ").split()).split("--")[1:]):
        field = {"dr": "decay_rate"}.get(name, name.replace("-", "_"))
        meant = [None if v == "None" else type_of(v) for v in values]
        if not values:
            field, meant = field.removeprefix("no_"), [not name.startswith("no-")]
        several = isinstance(cfg[field], tuple)
        assert cfg[field] == (tuple(meant) if several else meant[0]), name


def type_of(word):
    try:
        return json.loads(word)
    except ValueError:
        return word


def test_command_line_wins_over_the_config_which_wins_over_the_defaults(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("cfg = dict(model='tcformer_light', drop_path=0.3)\nother = dict(lr=1, dr=0.2)")
    cfg = read(f"--config {file} --drop-path 0.2 --batch-size 2")
    expected = {"drop_path": 0.2, "batch_size": 2, "lr": 1.0, "decay_rate": 0.2}
    assert cfg == TrainConfig().replace(model="tcformer_light", **expected)
    assert cfg == read(f"{file} --drop-path 0.2 --batch-size 2")
    assert cfg == read(f"--config={file} --drop-path 0.2 --batch-size 2")
    assert cfg == read(f"--batch-size 2 --config {file} --drop-path 0.2")
    assert cfg == read(f"--batch-size 2 --drop-path=0.2 {file}")
    assert read(f"--no-pin-mem --eval {file}").network.drop_path == 0.3
    file.write_text("cfg = dict(clip_grad=1.0)")
    assert read(f"{file} --clip-grad None") == TrainConfig()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--use-mcloader", "--use-mcloader is refused: it read a cache server"),
        ("--cache_mode", "--cache_mode is refused: it cached nothing"),
        ("--resplit", "--resplit is refused: it spares the first"),
        ("--patience-epochs 3", "--patience-epochs is refused: only --sched plateau"),
        ("--sched plateau", "--sched plateau is refused: its state"),
        ("--bath-size 3", "--bath-size is not an option; the nearest one is --batch-size"),
        ("--outputdir x", "--output_dir"),
        ("--zzzz 3", "--zzzz is not an option; see"),
        ("--epochs many", "--epochs"),
        ("--epochs", "--epochs"),
        ("--amp fp8", "--amp"),
        ("--opt-betas 0.9", "--opt-betas"),
        ("--lr 1 2", "2"),
        ("--config", "--config needs a file"),
        ("nowhere.py", "the config file nowhere.py does not exist"),
        ("configs/tcformer/tcformer_lite.py", "did you mean configs/tcformer/tcformer_light.py"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--batch-size 3", "odd"),
        ("--drop-path 2", "--drop-path"),
        ("--clip-grad -1", "--clip-grad"),
        ("--keep-ratio half", "--keep-ratio"),
        ("--num-clusters 2.5", "--num-clusters"),
        ("--k many", "--k is 'many'"),
        ("--threads 99999", "--threads is 99999, but this machine has"),
        ("--lr-noise 1 2 3", "--lr-noise"),
        ("--ema-decay 0.5", "--ema"),
        ("--start_epoch 300", "--start_epoch"),
        ("--resume auto", "--output_dir"),
        ("--freeze", "--freeze would leave the backbone at random weights"),
        ("--tensorboard", "--output_dir"),
        ("--num-classes 0", "--num-classes"),
        ("--task segmentaton", "--task segmentaton is not known; did you mean segmentation?"),
        ("--task zzz", "--task zzz is not known; use one of classification, segmentation"),
        ("--task segmentation --mixup 0.3", "--mixup is about classification"),
        ("--head-channels 3", "--head-channels is about segmentation"),
        ("--task segmentation --steps-per-epoch -1", "--steps-per-epoch is -1"),
    ],
)
def test_mistakes_are_one_sentence(words, part):
    with pytest.raises(UserError) as caught:
        read(words)
    said = str(caught.value)
    assert part in said
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("cfg = dict(bath_size=3)", "sets 'bath_size', which is not an option; the nearest"),
        ("cfg = dict(batch_size='3')", "batch_size to '3', but int is meant"),
        ("cfg = dict(eval=1)", "eval to 1, but bool is meant"),
        ("cfg = dict(opt_betas=[0.9])", "opt_betas to [0.9]"),
        ("cfg = dict(amp='fp8')", "amp to 'fp8'"),
        ("cfg = dict(epochs=True)", "epochs to True"),
        ("import os", "in line 1 stands Python code (Import)"),
        ("cfg = dict(", "line 1: '(' was never closed"),
        ("x = 1\nraise SystemExit(3)", "in line 2 stands Python code (Raise)"),
        ("cfg = {1: 2}", "sets 1, which is not an option"),
    ],
)  # fmt: skip
def test_mistakes_in_a_config_name_the_file(tmp_path, text, part):
    file = tmp_path / "c.py"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read(str(file))
    assert part in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_config_of_json(tmp_path):
    cfg = read("--opt-betas 0.8 0.99 --lr-noise 0.5 --aa None --clip-grad 1")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(cfg.to_json()))
    assert read(str(file)) == cfg


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_config_is_valid(path):
    build(load_config(path), where=str(path))
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_shipped_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = ROOT / "configs/tcformer/tcformer.py"
    for name in ("configs/tcformer/tcformer.py", "tcformer/tcformer.py", "tcformer/tcformer"):
        assert find_config(name) == expected
    own = tmp_path / "configs/tcformer/tcformer.py"
    own.parent.mkdir(parents=True)
    own.write_text("cfg = {}")
    assert find_config("configs/tcformer/tcformer.py").resolve() == own


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("tcformer_light", {"drop_path": 0.1, "clip_grad": None}),
        ("tcformer", {"drop_path": 0.1, "clip_grad": None}),
        ("tcformer_large", {"drop_path": 0.3, "clip_grad": 1.0}),
    ],
)
def test_published_configs(name, more):
    settings = {"model": name, "output_dir": f"work_dirs/{name}", **more}
    assert load_config(ROOT / f"configs/tcformer/{name}.py") == settings


def test_defaults_are_the_published_recipe():
    cfg = TrainConfig().flat()
    expected = {
        "model": "tcformer", "batch_size": 128, "epochs": 300, "start_epoch": 0,
        "input_size": 224, "drop": 0.0, "drop_path": 0.1, "opt": "adamw", "opt_eps": 1e-8,
        "opt_betas": None, "momentum": 0.9, "weight_decay": 0.05, "clip_grad": None,
        "sched": "cosine", "lr": 5e-4, "warmup_lr": 1e-6, "min_lr": 1e-5, "warmup_epochs": 5,
        "lr_noise": None, "lr_noise_pct": 0.67, "lr_noise_std": 1.0, "decay_epochs": 30,
        "decay_rate": None, "color_jitter": 0.4, "aa": "rand-m9-mstd0.5-inc1", "smoothing": 0.1,
        "train_interpolation": "bicubic", "reprob": 0.25, "remode": "pixel", "recount": 1,
        "mixup": 0.8, "cutmix": 1.0, "cutmix_minmax": None, "mixup_prob": 1.0,
        "mixup_switch_prob": 0.5, "mixup_mode": "batch", "data_set": "IMNET",
        "inat_category": "name", "num_workers": 10, "pin_mem": True, "seed": 0, "ema": None,
    }  # fmt: skip
    assert {name: cfg[name] for name in expected} == expected


NAMES = (ROOT / "tests/golden/options.txt").read_text().split()


def test_every_name_of_an_option_stays():
    """The names in `tcformer train --help` when configuration got one owner (November 2026)."""
    assert set(NAMES) <= {option(name) for name in TrainConfig.kinds()}
    assert all(explanations().values())


def test_help_shows_options_by_section_and_needs_no_torch():
    code = (
        "import sys; from tcformer.cli import main; status = main(['train', '--help']);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for section, kind in TrainConfig.sections().items():
        group = done.stdout.partition(f"\n{section}:\n")[2].partition("\n\n--")[0]
        assert all(f"--{name.replace('_', '-')}" in group for name in kind.options())
    flat = " ".join(done.stdout.split())
    assert "Side of the square input, pixels. (default: 224)" in flat


def test_every_field_is_read_by_a_run(tmp_path, monkeypatch):
    """An option that no code reads is a test failure.

    Reads by the configuration itself (repr, checks, JSON) do not count.
    """
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from tcformer.tasks import runner
    from tcformer.tasks.classification.task import ClassificationTask

    names = set(TrainConfig.kinds())
    reads: set[str] = set()
    own = ("dataclasses", "copy", "tcformer.sections", "tcformer.training.config",
           "tcformer.training.options", "tcformer.data.spec")  # fmt: skip

    def watched(self, name):
        if name in names and sys._getframe(1).f_globals["__name__"] not in own:
            reads.add(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Section, "__getattribute__", watched)
    monkeypatch.setattr(TrainConfig, "__getattribute__", watched)

    class Small(ClassificationTask):
        """Data and model are built as the options say; the toy is trained."""

        def __init__(self, cfg, world):
            super().__init__(cfg, world)
            toy = ToyTask(cfg, steps=1)
            for name in ("model", "steps_per_epoch", "batches", "loss", "evaluate", "report",
                         "epoch_facts", "save_weights"):  # fmt: skip
                setattr(self, name, getattr(toy, name))

    monkeypatch.setitem(runner._TASKS, "classification", Small)
    common = {
        "model": "tcformer_nano", "data_set": "digits", "input_size": 32, "batch_size": 4,
        "num_workers": 0, "epochs": 1, "device": "cpu", "threads": 1,
    }  # fmt: skip
    runner.run(build({**common, "output_dir": str(tmp_path), "ema": True, "ema_decay": 0.5}))
    # Dry runs of the other tasks read what is only for them.
    segments = {**common, "task": "segmentation", "neck_channels": 8, "head_channels": 8}
    runner.run(build({**segments, "neck_heads": 2, "dry_run": True}))
    pose = {"task": "pose", "data_set": "sticks", "crop_size": (32, 32), "neck_channels": 8}
    less = {k: v for k, v in common.items() if k != "input_size"}
    runner.run(build({**less, **pose, "neck_heads": 2, "dry_run": True}))
    detection = {"task": "detection", "data_set": "shapes", "min_size": 32, "max_size": 32}
    less = {**less, **detection, "num_shapes": 4, "neck_channels": 8, "neck_heads": 2}
    runner.run(build({**less, "dry_run": True}))
    with pytest.raises(UserError):
        build_dataset(build({"data_set": "INAT", "data_path": "none"}).data, "val")
    assert names - reads == set(RefusedConfig.options())
