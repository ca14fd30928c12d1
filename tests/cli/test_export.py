import pytest

from tcformer.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "dynamic"], "how many tokens there are"),
        (["--size", "12.5"], "such as 224 or 256x192"),
        (["--dtype", "float16"], "half precision choose other clusters"),
        (["--format", "onx"], "did you mean onnx"),
        (["tcformer_lite", "--format", "pt2"], "did you mean tcformer_light"),
        (["--format", "pt2", "--checkpoint", "none.safetensors"], "none.safetensors"),
        (["resnet18", "--format", "pt2", "--size", "32"], "no TCFormer"),
        (["--sise", "32"], "did you mean --size"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
