import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcformer import drawn as drawings
from tcformer import export
from tcformer.errors import UserError
from tcformer.export import formats, making
from tcformer.export.contract import ExportedNetwork
from tcformer.zoo import create_model

ROOT = Path(__file__).parents[2]
SIZE = (32, 48)


@pytest.mark.slow  # as tests/models/test_compile_export.py, which is not, but through a file
def test_a_graph_of_pytorch_is_written_checked_and_read_by_pytorch_alone(loaded, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(drawings.scenes((60, 50), 1)[0]).save(photo)
    out = tmp_path / "model.pt2"
    out.write_bytes(b"an older one")
    report = export.export(loaded, out, size=SIZE, outputs=export.OUTPUTS, images=[photo])
    assert report.files == (out,)
    assert report.parity.batches == [1, 1, 1, 1, 4]
    assert report.parity.unequal == [0, 0, 0, 0]
    assert report.parity.problem() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "photo.png"]

    with zipfile.ZipFile(out) as archive:
        assert not any(str(ROOT).encode() in archive.read(name) for name in archive.namelist())
    extra = {"tcformer.json": ""}
    module = torch.export.load(out, extra_files=extra).module()
    about = json.loads(extra["tcformer.json"])
    assert about == report.contract.metadata()
    assert json.loads(about["size"]) == [32, 48]
    assert json.loads(about["classes"])[3] == "thing 3"
    operators = {str(node.target) for node in module.graph.nodes if node.op == "call_function"}
    assert not any("tcformer" in name or "searchsorted" in name for name in operators)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, *SIZE)
        with torch.no_grad():
            found, expected = module(x), ExportedNetwork(loaded.network, report.contract)(x)
        for ours, theirs in zip(expected, found, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.fixture
def broken(loaded, monkeypatch):
    """A format whose files say something else than the network: a logit, or a cluster."""

    def write(program, contract, path, opset):
        path.write_bytes(b"x" * 100)

    def load(path, contract):
        def run(images):
            with torch.inference_mode():
                found = ExportedNetwork(loaded.network, contract)(torch.from_numpy(images))
            named = dict(zip(contract.output_names, (v.numpy() for v in found), strict=True))
            return {**named, broken_output: named[broken_output] + 1}

        return run

    broken_output = "tokens2"
    monkeypatch.setattr(making, "trace", lambda network, contract: None)
    fake = formats.Format("fake", ".fake", "nothing", write, load)
    monkeypatch.setitem(formats.FORMATS, "fake", fake)


@pytest.mark.parametrize("outputs", [("logits", "tokens"), ("logits",)])
def test_a_file_that_disagrees_is_not_kept(loaded, broken, tmp_path, outputs):
    # Also where the clusters are not among the outputs.
    out = tmp_path / "model.fake"
    with pytest.raises(UserError, match="disagrees with PyTorch, so nothing is written: 11 of 11"):
        export.export(loaded, out, size=SIZE, outputs=outputs)
    assert list(tmp_path.iterdir()) == []
    out.write_bytes(b"an older one")
    with pytest.raises(UserError, match="disagrees"):
        export.export(loaded, out, size=SIZE, outputs=outputs)
    assert out.read_bytes() == b"an older one"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "onx"}, "did you mean onnx"),
        ({"format": "pt2", "out": "a.onnx"}, "must end in .pt2"),
        ({"out": "a.bin"}, "let its name end in .onnx, .pt2, .xml"),
        ({"size": (8, 64)}, "at least 16 px a side"),
        ({"size": (2048, 1024)}, "at most 1 million pixels"),
        ({"input": "bytes"}, "normalised or pixels"),
        ({"outputs": ("scores",)}, "there is no output 'scores'"),
        ({"outputs": ()}, "no output is chosen"),
        ({"opset": 18}, "not to --format pt2"),
        ({"out": "a.onnx", "opset": 12}, "from 18 to 23, not 12"),
        ({"images": ["none.png"]}, "none.png"),
        ({"time_batches": [0]}, "1 image or more"),
        ({"out": "/dev/null/a.pt2"}, "not a folder"),  # missing folders are made
    ],
)
def test_what_does_not_fit_is_refused_at_once(loaded, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(making, "trace", None)  # nothing is traced before it is refused
    given = {"out": "a.pt2", "size": SIZE, **arguments}
    if str(given["out"]).endswith(".onnx"):
        pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")
    with pytest.raises(UserError, match=words):
        export.export(loaded, **given)
    assert list(tmp_path.iterdir()) == []


def test_networks_that_cannot_be_exported(loaded, backbone, tmp_path):
    out = tmp_path / "a.pt2"
    with pytest.raises(UserError, match="no classifier"):
        export.export(backbone, out)
    with pytest.raises(UserError, match="no TCFormer"):
        export.export(replace(loaded, network=torch.nn.Linear(1, 1)), out)
    half = create_model("tcformer_nano").eval().bfloat16()
    with pytest.raises(UserError, match="needs float32"):
        export.export(replace(loaded, network=half), out)
    noisy = create_model("tcformer_nano", density_noise=1e-6).eval()
    with pytest.raises(UserError, match="draws noise"):
        export.export(replace(loaded, network=noisy), out)


@pytest.mark.parametrize("name", ["onnx", "openvino", "aoti"])
def test_what_is_missing_is_named_with_its_command(monkeypatch, name):
    monkeypatch.setattr(formats, "is_installed", lambda package: False)
    monkeypatch.setattr(formats.shutil, "which", lambda program: None)
    words = "no C\\+\\+ compiler: install g" if name == "aoti" else r"pip install 'tcformer\[export"
    with pytest.raises(UserError, match=words):
        formats.choose(name, None)


def test_scenes_are_the_same_for_ever():
    drawn = drawings.scenes((40, 56), 3)
    assert drawn.shape == (3, 40, 56, 3)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, drawings.scenes((40, 56), 3))
    assert all(picture.std() > 20 for picture in drawn)
    assert not np.array_equal(drawn[0], drawn[1])


def test_even_pictures_are_part_of_every_check():
    drawn = drawings.even((40, 56))
    assert drawn.shape == (drawings.NUM_EVEN, 40, 56, 3)
    colors = [len(np.unique(picture.reshape(-1, 3), axis=0)) for picture in drawn]
    assert colors == [1, 2, 2]


def test_pixels_are_what_the_network_would_have_seen(loaded, contract):
    drawn = drawings.scenes(SIZE, 2)
    pixels = making._as_input(loaded, replace(contract, input="pixels"), drawn)
    assert np.array_equal(pixels, drawn)
    normalized = making._as_input(loaded, contract, drawn)
    assert normalized.flags.c_contiguous
    both = [replace(contract, input=name) for name in ("pixels", "normalised")]
    with torch.inference_mode():
        one, other = (
            ExportedNetwork(loaded.network, way)(torch.from_numpy(x))
            for way, x in zip(both, (pixels, normalized), strict=True)
        )
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
