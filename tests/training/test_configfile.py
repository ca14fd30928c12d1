"""Config files are read, not run: settings come out, and nothing else can happen."""

import time

import pytest

from tcformer.errors import UserError
from tcformer.training.configfile import read_config


def read(folder, text, name="c.py"):
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return read_config(file)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('"""Words."""\ncfg = dict(model="m", lr=5e-4, clip_grad=None)', None),
        ("cfg = {'model': 'm', 'lr': 1e-3 / 2, 'clip_grad': None}", None),
        (
            "base = dict(model='m', lr=1.0)\ncfg = dict(base, lr=5e-4)\ncfg['clip_grad'] = None",
            None,
        ),
        ("a = dict(model='m')\nb = dict(lr=5e-4, **{'clip_grad': None})", None),
        ("base = {'lr': 5e-4}\ncfg = {**base, 'model': 'm', 'clip_grad': None}", None),
        ("cfg: dict = dict(model='m', lr=5e-4) | {'clip_grad': None}\npass", None),
        ("gpus = 8\ncfg = dict(lr=5e-4 * gpus, warmup=-1)", {"lr": 4e-3, "warmup": -1}),
        ("cfg = dict(batch_size=2 ** 5, epochs=+7 // 2)", {"batch_size": 32, "epochs": 3}),
        ("name = 'a'\ncfg = dict(output_dir='work/' + name)", {"output_dir": "work/a"}),
        ("cfg = dict(betas=(0.9, .99), lr=1e-3)", {"betas": (0.9, 0.99), "lr": 1e-3}),
        ("__hidden = dict(a=1)\nx = y = dict(b=2)", {"b": 2}),
        ("\ufeffcfg = dict(a='\\d')\r\n", {"a": "\\d"}),
        ("", {}),
    ],
)
def test_settings_are_read(tmp_path, text, values):
    if values is None:
        values = {"model": "m", "lr": 5e-4, "clip_grad": None}
    assert read(tmp_path, text) == values


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.system('touch {trace}')",
        "cfg = dict(a=__import__('os').system('touch {trace}'))",
        "cfg = dict(a=open('{trace}', 'w'))",
        "open('{trace}', 'w')",
        "(lambda: open('{trace}', 'w'))()",
        "def f():\n    open('{trace}', 'w')\nf()",
        "cfg = [open('{trace}', 'w') for _ in (1,)]",
        "cfg = dict(a=f\"{{open('{trace}', 'w')}}\")",
        "cfg = dict(a=().__class__.__base__.__subclasses__())",
        "cfg = dict(a='%c' % 1)",
        "dict = open\ncfg = dict('{trace}', 'w')",
        "cfg = dict.fromkeys(open('{trace}', 'w'))",
        "while True: pass",
        "try:\n    open('{trace}', 'w')\nexcept Exception: pass",
        "x = 1\nx += 1",
        "cfg = dict(a=1j)",
        "cfg = {{(): 1}}",
        "cfg = dict([1])",
        "cfg = dict(a={{}}['b'])",
        "cfg = dict(a=1 / 0)",
        "[][0] = 1",
        "a, b = 1, 2",
        "nonsense here",
    ],
)
def test_programs_are_refused_and_do_nothing(tmp_path, text):
    trace = tmp_path / "trace"
    with pytest.raises(UserError) as caught:
        read(tmp_path, text.format(trace=trace))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "c.py") in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        "x = 9 ** 9 ** 9",
        "x = 2 ** 99\nx = x * x * x * x * x",
        "x = [0] * 10 ** 12",
        "x = 'a' * 9999 + 'bc'",
        "x = 0x" + "f" * 100_000,
        "x = " + "9" * 100_000,
        "x = " + "(" * 100_000,
        "x = " + "[" * 500 + "]" * 500,
        "x = " + "-" * 100_000 + "1",
        "x = " + "1+" * 100_000 + "1",
        "x = 1 # " + "a" * (1 << 21),
        "x\0 = 1",
        b"\xff\xfe",
    ],
    ids=range(13),
)
def test_no_work_without_end(tmp_path, text):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert time.monotonic() - began < 5


def test_what_is_shared_a_million_times_is_not_printed(tmp_path):
    from tcformer.training.options import build

    lines = ["x = [0] * 9"] + ["x = [x] * 9"] * 60 + ["cfg = dict(lr=x)"]
    with pytest.raises(UserError) as caught:
        build(read(tmp_path, "\n".join(lines)), where="here")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, b"\xff", '{"a": ' + "9" * 5000 + "}", ""]
)
def test_json_that_is_none(tmp_path, text):
    with pytest.raises(UserError, match=r"c\.json"):
        read(tmp_path, text, "c.json")


def test_what_is_no_file(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        read_config(tmp_path / "none.py")
