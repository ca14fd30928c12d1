"""Every format is written and run by the program it is for."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcformer import drawn as drawings
from tcformer import export
from tcformer.errors import UserError
from tcformer.export import formats, making, parity

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def available(name):
    missing = formats.FORMATS[name].missing()
    if missing:
        pytest.skip(missing)


BLOCKED = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "tcformer", "torchvision", "timm", "PIL", "onnx"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_command_and_example_on_onnxruntime_only(tmp_path):
    available("onnx")
    import onnx
    import onnxruntime

    drawn = drawings.scenes((70, 90), 3)
    for number, picture in enumerate(drawn):
        Image.fromarray(picture).save(tmp_path / f"{number}.ppm")
    words = ["export", "tcformerv2_nano", "--size", "64", "--time", "1", "2", "--out", "m.onnx"]
    said = subprocess.run(
        [sys.executable, "-m", "tcformer", *words, "--images", "0.ppm", "1.ppm", "2.ppm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "weights are random" in said.stderr
    assert (
        "compared with PyTorch on 3 images and 3 even pictures, in batches of 1 and 6:"
        in said.stdout
    )
    assert "stage 1: equal, stage 2: equal, stage 3: equal, stage 4: equal" in said.stdout
    assert "logits    largest difference" in said.stdout
    assert "time of 2 images on" in said.stdout
    assert "wrote m.onnx (" in said.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"0.ppm", "1.ppm", "2.ppm", "m.onnx"}

    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    assert about["model"] == "tcformerv2_nano"
    assert json.loads(about["size"]) == [64, 64]
    assert len(json.loads(about["classes"])) == 1000
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]
    assert session.get_outputs()[0].shape == ["batch", 1000]

    told = subprocess.run(
        [sys.executable, "-c", BLOCKED, ROOT / "examples" / "onnx_deploy.py", "m.onnx", "1.ppm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert len(lines) == 5
    # The same classes as from this package's own preprocessing of the picture, almost.
    from tcformer import predict

    loaded = predict.load("tcformerv2_nano")
    seen = making.read_pictures([tmp_path / "1.ppm"], (64, 64))
    logits = session.run(["logits"], {"images": loaded.preprocessing.normalize(seen[0]).numpy()})
    best = np.argsort(-logits[0][0])[:5]
    names = [line.split(maxsplit=1)[1] for line in lines]
    assert len({loaded.classes[index] for index in best} & set(names)) >= 4


def test_pixels_and_pyramids_of_another_keep_ratio_in_onnx(tmp_path, network):
    available("onnx")
    loaded = network(keep_ratio=(0.5, 0.25, 0.5))
    out = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    options = {"size": (48, 64), "input": "pixels", "opset": 18}
    for path in out:
        report = export.export(loaded, path, outputs=("features", "tokens"), **options)
    assert out[0].read_bytes() == out[1].read_bytes()
    assert report.parity.unequal == [0, 0, 0, 0]
    assert str(ROOT).encode() not in out[0].read_bytes()

    runner = formats.FORMATS["onnx"].load(out[0], report.contract)
    # Ties everywhere: an even picture, one that is even on one side, and one thing again and again.
    even = np.full((48, 64, 3), 130, np.uint8)
    half, again = drawings.scenes((48, 64), 1)[0], even.copy()
    half[:, 32:] = 90
    again[::8, ::8] = 255
    found = parity.Parity()
    images = np.stack([even, half, again])
    parity.compare(loaded.network, report.contract, runner, images, found)
    assert found.problem() is None, found
    maps = runner(images[1:2])
    assert maps["features2"].shape == (1, 64, 6, 8)
    assert maps["tokens2"].max() == 0.5 * 12 * 16 - 1


@pytest.mark.parametrize("name", ["aoti", "openvino"])
def test_the_other_formats(tmp_path, network, name):
    available(name)
    loaded = network("tcformerv2_nano")
    out = tmp_path / f"model{formats.FORMATS[name].suffix}"
    report = export.export(loaded, out, format=name, size=(64, 64), time_batches=(1,))
    assert report.parity.batches == [1, 1, 1, 1, 7]
    assert report.parity.unequal == [0, 0, 0, 0]
    assert set(report.files) == set(tmp_path.iterdir())
    source = str(ROOT / "src").encode()  # an environment below ROOT may be named
    assert not any(source in path.read_bytes() for path in report.files)
    assert report.times[0].exported > 0
    images = np.random.default_rng(0).standard_normal((5, 3, 64, 64)).astype(np.float32)
    runner = formats.FORMATS[name].load(out, report.contract)
    # In another memory order, which a compiled model would misread.
    strided = images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    for given in (images, strided):
        found = parity.Parity()
        parity.compare(loaded.network, report.contract, runner, given, found)
        assert found.problem() is None


def test_without_a_working_compiler_one_sentence(tmp_path, monkeypatch, contract):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(3),))
    # Not monkeypatch.setattr: undone, it leaves torch without the setting.
    broken = torch._inductor.config.patch({"cpp.cxx": (None, "false")})
    with broken, pytest.raises(UserError, match="check the C\\+\\+ compiler"):
        formats.FORMATS["aoti"].write(program, contract, tmp_path / "m.pt2", None)
    assert not list(tmp_path.glob("*.pt2"))
