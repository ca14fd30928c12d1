"""Every code block of the documentation is run: Python as it stands, commands on tiny data.

Words in capitals and names of files that a reader has are provided (`Desk`), and options are
*added* to keep a run small; what is printed stays. A command that `WAYS` does not know fails.
README.md is the business of test_readme.py.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from pages import PAGES, ROOT, blocks, commands, image_folder, stand_in, stand_in_for_srun
from people import make_annotations, make_coco, perfect
from processes import free_port

from tcformer import cli

TEXTS = {page.name: page.read_text() for page in PAGES if page.name != "README.md"}

TINY = (
    "--model tcformer_nano --input-size 32 --batch-size 2 --epochs 1 --num_workers 0 --amp off "
    "--device cpu --threads 1"
)


PERSON = (
    "--model tcformer_nano --crop-size 64 48 --batch-size 2 --num_workers 0 --device cpu "
    "--threads 1 --neck-channels 16 --neck-heads 2 --epochs 1 --sched cosine --decay-milestones"
)


class Run(NamedTuple):
    """Run with these words added."""

    added: str = ""
    slow: bool = True


class Read(NamedTuple):
    """The words are read by the verb's own parser, and that is all, because of ..."""

    why: str


class Left(NamedTuple):
    """Not run here, because of ..."""

    why: str


WAYS: dict[str, Run | Read | Left] = {
    r"make test\b": Left("`contracts/test_readme.py::test_set_up_in_a_fresh_clone`"),
    r"make check\b": Left("what CI runs before this; it would run all linters once more"),
    r"make faults\b": Left("campaigns of minutes; their short forms are the tests of tests/faults"),
    r"python examples/(\w+).py( --decoder|$)": Left("`examples/test_they_learn.py`"),
    r"python benchmarks/learning.py ": Left(
        "`contracts/test_learning.py::test_a_run_is_recorded_once`"
    ),
    r"tcformer train configs/digits/": Run(
        "--epochs 1 --warmup-epochs 0 --batch-size 512 --threads 1"
    ),
    r"tcformer evaluate configs/digits/": Run("--threads 1"),
    r"tcformer (train|evaluate) configs/detection/": Left("a minute each: `tasks/detection`"),
    r"sh dist_train.sh configs/detection/": Left("needs COCO and 8 GPUs; `tasks/detection`"),
    r"pip install ": Left("installs; contracts/test_wheel.py does so where nothing is downloaded"),
    r"python checks/gpu.py": Left("needs a GPU; quick, by `checks/test_gpu.py`"),
    r"pytest tests/ops/kernels": Left("part of the suite itself"),
    r"compute-sanitizer": Left("a program of the CUDA toolkit, for a GPU"),
    r"tcformer (?!train).*--pretrained\b": Read("downloads the authors' weights"),
    r"tcformer bench --suite": Read("minutes; with --quick by `cli/test_bench.py`"),
    r"tcformer bench .*--device cuda": Read("needs a GPU"),
    r"tcformer bench --plot": Run(slow=False),
    r"tcformer bench --data$": Run("--quick --device cpu --threads 1"),
    r"tcformer bench --ops dpc_knn regroup$": Run("--quick --device cpu --threads 1"),
    r"tcformer bench": Read("minutes; such runs on small ones by `cli/test_bench.py`"),
    r"tcformer serve": Read("runs until it is stopped; tests/serve starts it"),
    r"tcformer evaluate work_dirs/segmentation_digits/": Run("--threads 1"),
    r"tcformer train configs/segmentation/digits.py$": Run(
        "--epochs 1 --warmup-epochs 0 --steps-per-epoch 1 --batch-size 2 --threads 1"
    ),
    r"python examples/letters.py": Run("--val 5"),
    r"tcformer train configs/finetuning/.*(frozen|scratch)$": Run(
        "--batch-size 4 --threads 1 --dry-run"
    ),
    r"tcformer train configs/finetuning/letters.py": Run(
        "--epochs 1 --warmup-epochs 0 --threads 1"
    ),
    r"tcformer train configs/finetuning/photographs.py": Run(
        "--epochs 1 --warmup-epochs 0 --batch-size 4 --threads 1"
    ),
    r"tcformer evaluate runs/": Run(),
    r"tcformer train configs/pose/sticks.py$": Run(
        "--epochs 1 --warmup-steps 0 --batch-size 512 --crop-size 32 32 --threads 1"
    ),
    r"(tcformer evaluate|(sh )?dist_train.sh) configs/wholebody/": Run(f"{PERSON} --boxes truth"),
    r"(sh )?dist_train.sh configs/wflw/": Left("`tasks/pose/test_faces.py::test_a_run` runs it"),
    r"tcformer (pose|evaluate-keypoints) ": Run(),
    r"tcformer train --task segmentation --data-set folder": Run(
        "--model tcformer_nano --batch-size 2 --num_workers 0 --device cpu --threads 1 "
        "--input-size 64 --epochs 1 --warmup-epochs 0 --dry-run"
    ),
    r"tcformer (train|evaluate) ": Run(TINY),
    r"torchrun .* -m tcformer train ": Run(f"{TINY} --dry-run"),
    r"(sh )?dist_train.sh configs/segmentation/ade20k": Run(
        "--model tcformerv2_nano --batch-size 1 --num_workers 0 --device cpu --threads 1 "
        "--input-size 64 --dry-run"
    ),
    r"(sh )?dist_train.sh ": Run(TINY),
    r"((GPUS|SBATCH|SBATCH_ARGS)=\S+ )+\./slurm_train.sh ": Run(f"{TINY} --dry-run"),
    r"#!/bin/bash\n#SBATCH": Run(f"{TINY} --dry-run"),
    r"tcformer hub .*--push": Read("needs the network; `predict/test_hub.py::test_the_command`"),
    r"tcformer hub ": Run(slow=False),
    r"tcformer export ": Read("half a minute: `export/test_formats.py`"),
    r"python examples/onnx_deploy.py": Left("as `tcformer export`, by the same test"),
    r"tcformer show ": Run("--size 64 --model tcformer_nano --panel-size 64"),
    r"tcformer predict letters/": Run(),
    r"tcformer confusion ": Run("--threads 1"),
    r"tcformer predict ": Run("--input-size 64", slow=False),
    r"tcformer (download --list|\w+ --help)": Run(slow=False),
}
"""Beginning of a command -> what is done with it; the first that fits."""

SWAPS = {
    r" 8 --data-path": " 2 --data-path",  # processes
    r"--time=8:00:00 --": "--",
    r"\bCONFIG\b": "configs/tcformer/tcformer.py",
    r"\bWORK_DIR\b": "work_dirs/job",
    r"--data-path D\b": "--data-path images",
    r"/path/to/imagenet": "images",
    r"/path/to/": "",
    r"--data-path pictures --pretrained( --freeze)?": "--data-path images",  # they are fetched
    r"--data-path pictures\b": "--data-path images",
    r"confusion pictures\b": "confusion images",
    r"\bWEIGHTS\b": "backbone.safetensors",
    r"\bRECORD\.json": "record.json",
}
"""Placeholders of the pages -> what stands there in a test."""

NEEDS = {
    "dense.md": ("segmentation_models_pytorch", "transformers"),
    "export.md": ("onnx", "onnxscript", "onnxruntime"),
}
"""Pages whose Python needs what only an extra installs, and takes long to import."""


def way(command: str) -> Run | Read | Left | None:
    return next((how for start, how in WAYS.items() if re.match(start, command)), None)


def steps() -> list[object]:
    """A test for each page with commands; slow if one of its commands is."""
    found = []
    for name, text in TEXTS.items():
        if commands(text):
            hows = [way(command) for command in commands(text)]
            slow = any(isinstance(how, Run) and how.slow for how in hows)
            found.append(pytest.param(name, marks=[pytest.mark.slow] * slow, id=name))
    return found


class Desk:
    """A folder as a reader has it: the clone's files and what the page takes for granted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("configs", "examples", "docs", "tests", "dist_train.sh", "slurm_train.sh"):
            (folder / name).symlink_to(ROOT / name)
        self.bin = folder / "bin"
        python = shlex.quote(sys.executable)
        stand_in(self.bin / "tcformer", f'exec {python} -m tcformer "$@" $MORE')
        stand_in(self.bin / "python", f'exec {python} "$@"')
        stand_in(self.bin / "torchrun", f'exec {python} -m torch.distributed.run "$@"')
        stand_in(self.bin / "sbatch", "cat > sbatch.txt; echo 'Submitted batch job 1'")
        stand_in(self.bin / "dist_train.sh", 'exec sh ./dist_train.sh "$@"')
        stand_in_for_srun(self.bin, folder / "srun.txt")

    def provide(self, command: str) -> None:
        """Make the files that a command reads and nobody has written yet."""
        words = shlex.split(command, comments=True)
        written = {words[at + 1] for at, word in enumerate(words[:-1]) if word in self.OUTPUTS}
        for word in words:
            path = self.folder / word
            if word in written or word.startswith("-") or path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if word.endswith((".png", ".jpg", ".jpeg", ".webp")):
                picture(path)
            elif word.startswith(("tcformer_mta", "pose.")):
                pose_weights(path)
            elif word.endswith((".pth", ".safetensors")):
                weights(path)
            elif word.endswith("/config.json"):
                finished_run(path.parent, self.folder)
            elif word == "record.json":
                shutil.copy(max((ROOT / "benchmarks/results").glob("*-resolution-cpu.json")), path)
            elif word.endswith("/"):
                path.mkdir()
                picture(path / "1.png")
            elif word == "images":
                image_folder(path)
            elif word == "COCO":
                make_coco(path)
            elif word in ("annotations.json", "keypoints.json"):
                content = make_annotations()
                path.write_text(json.dumps(content if word < "b" else perfect(content)))
            elif word == "boxes.json":
                names = ("photo.jpg", "figure.png")
                boxes = [{"file_name": name, "bbox": [4, 4, 40, 56]} for name in names]
                path.write_text(json.dumps(boxes))
            elif word == "ADEChallengeData2016":
                challenge(path)
            elif word == "masks":
                challenge(path)
                (path / "classes.txt").write_text("a\nb\nc\nd\n")

    OUTPUTS = ("--out", "--output", "--output_dir", "--output-dir")

    def run(self, command: str, added: str) -> str:
        """What the command printed; it must have succeeded."""
        for what, instead in SWAPS.items():
            command = re.sub(what, instead, command)
        assert "/path/to" not in command
        script = command.startswith("#!")
        self.provide("" if script else f"{command} {added}")
        if command.startswith("tcformer "):
            # In this process: importing torch once more takes seconds.
            assert cli.main(shlex.split(f"{command} {added}")[1:]) == 0, command
            return ""
        if script:
            image_folder(self.folder / "images") if not (self.folder / "images").exists() else None
            (self.folder / "job.sh").write_text(command)
            line = ["bash", "job.sh"]
        else:
            line = ["sh", "-c", f"{command} {added}"]
        environment = {
            **os.environ,
            "PET_MASTER_PORT": str(free_port()),  # torchrun's, else 29500 for everybody
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "MORE": added if script else "",
        }
        result = subprocess.run(
            line, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=280
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout


def picture(path: Path) -> None:
    from PIL import Image

    Image.open(ROOT / "docs/images/scene.png").resize((64, 64)).save(path)


def weights(path: Path, model: str = "tcformer_nano", num_classes: int = 2) -> None:
    import torch

    from tcformer import create_model, save_weights

    torch.manual_seed(0)
    network = create_model(model, num_classes=num_classes)
    if path.suffix == ".pth":
        torch.save({"model": network.state_dict()}, path)
    else:
        save_weights(network, path)


def pose_weights(path: Path) -> None:
    import torch

    from tcformer.models.heads import TopDownPose
    from tcformer.weights.metadata import save_weights
    from tcformer.zoo import create_model

    torch.manual_seed(0)
    backbone = create_model("tcformer_nano", num_classes=0)
    network = TopDownPose(backbone, 133, neck_channels=16, neck_heads=2)
    if path.suffix == ".pth":
        torch.save({"state_dict": network.state_dict()}, path)
    else:
        about = {"task": "pose", "crop_size": "64x48", "neck_heads": "2"}
        save_weights(network.state_dict(), path, about)


def finished_run(folder: Path, place: Path) -> None:
    if not (place / "images").exists():
        image_folder(place / "images")
    words = f"train configs/tcformer/tcformer.py --data-path {place / 'images'} {TINY}"
    assert cli.main([*words.split(), "--output_dir", str(folder)]) == 0


def challenge(root: Path) -> None:
    """Two pictures each in the layout of ADE20K."""
    from PIL import Image

    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 2):
            for kind, mode, ending in (("images", "RGB", "jpg"), ("annotations", "L", "png")):
                path = root / kind / split / f"ADE_{short}_{number:08d}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (80, 72), 3).save(path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", steps())
def test_commands(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    desk = Desk(tmp_path)
    for command in commands(TEXTS[name]):
        how = way(command)
        assert how is not None, f"{command}: say in WAYS how it is run"
        if isinstance(how, Run):
            desk.run(command, how.added)
        elif isinstance(how, Read):
            desk.provide(command)
            verb, *words = shlex.split(command)[1:]
            module = importlib.import_module(f"tcformer.cli.{verb}")
            (getattr(module, "parse", None) or module._parse)(words)


WITH_PYTHON = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in NEEDS), id=name)
    for name, text in TEXTS.items()
    if blocks(text, "python")
]


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python(name, tmp_path, monkeypatch, capsys):
    import torch

    for module in NEEDS.get(name, ()):
        pytest.importorskip(module, reason="the extra that the page names is not installed")
    Desk(tmp_path)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, (_, text) in enumerate(blocks(TEXTS[name], "python"), start=1):
        for file in re.findall(r'"([\w/.-]+\.(?:png|jpe?g|webp))"', text):
            if not (tmp_path / file).exists():
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                picture(tmp_path / file)
        for stem in re.findall(r'"(\w+)\.pth"', text):
            weights(tmp_path / f"{stem}.pth", stem, 1000)
        exec(compile(text, f"{name}, block {number}", "exec"), names)


def test_every_way_is_used_and_every_reason_holds():
    everything = [command for text in TEXTS.values() for command in commands(text)]
    for beginning, how in WAYS.items():
        assert any(re.match(beginning, command) for command in everything), f"{beginning}: unused"
        if not isinstance(how, Run):
            for file, function in re.findall(r"`([\w/]+\.py)::(\w+)`", how.why):
                text = (ROOT / "tests" / file).read_text()
                assert re.search(rf"^def {function}\(", text, re.M), how.why


def test_no_command_hides_in_a_block_of_text():
    for name, text in TEXTS.items():
        for _, block in blocks(text, "text"):
            hidden = re.findall(r"^(?:\$ )?(?:tcformer|make|python|pip|sh) \S+.*", block, re.M)
            assert hidden == [], f"{name}: fence it as sh, so that it is run"
