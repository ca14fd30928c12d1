"""Pictures of records."""

import json
import sys

import pytest

from tcformer.bench import plot, record
from tcformer.errors import UserError
from tcformer.weights.released import RELEASED


def row(size, models, **changes):
    one = {
        "mode": "inference", "batch": 1, "size": size, "dtype": "float32", "device": "cpu",
        "models": {
            label: {
                "seconds": {"median": s, "low": 0.9 * s, "high": 1.2 * s, "min": s},
                "images_per_second": 1 / s,
            }
            for label, s in models.items()
        },
    }  # fmt: skip
    return one | changes


def write(path, rows, **more):
    path.write_text(json.dumps({"form": record.FORM, "rows": rows, **more}))
    return path


@pytest.fixture
def kept(tmp_path):
    models = {"tcformer": 0.1, "pvt_v2_b2": 0.09, "resnet50": 0.05}
    return write(tmp_path / "r.json", [row(224, models), row(512, models)])


def test_both_panels(kept, tmp_path):
    pytest.importorskip("matplotlib", reason="drawing is an extra")
    told = plot.plot([kept], tmp_path / "picture.svg")
    assert told == ["inference, batch 1, float32, cpu", "224 px, batch 1, float32, cpu"]
    text = (tmp_path / "picture.svg").read_text()
    assert (text.count("<svg"), len(text) > 5000) == (1, True)
    with pytest.raises(UserError, match="cannot write"):
        plot.plot([kept], tmp_path / "nowhere" / "p.svg")


def test_several_records_suites_and_ops_make_one_line(tmp_path):
    first = write(tmp_path / "a.json", [row(224, {"tcformer": 0.1, "x": 0.2}), {"op": "regroup"}])
    second = write(tmp_path / "b.json", [], parts=[{"rows": [row(384, {"tcformer": 0.3})]}])
    rows = [r for p in (first, second) for r in plot.rows_of(record.read(p))]
    (title,) = plot.panels_of(rows)
    assert title.startswith("inference, batch 1")


def test_our_accuracies_are_those_of_the_zoo():
    for name, entry in RELEASED.items():
        if name in plot.TOP1:
            assert entry.paper == f"{plot.TOP1[name]} % top-1"


@pytest.mark.parametrize(
    ("content", "target", "says"),
    [
        ({"form": record.FORM, "rows": []}, "p.svg", "nothing to draw"),
        ({"form": record.FORM, "rows": []}, "p.doc", "must end in .svg"),
        ({"form": 99}, "p.svg", "not a record"),
        ("no json", "p.svg", "not a JSON file"),
        (None, "p.svg", "no such file"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(tmp_path, content, target, says):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=says):
        plot.plot([path], tmp_path / target)


def test_without_matplotlib(kept, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"tcformer\[bench\]"):
        plot.plot([kept], tmp_path / "p.svg")
