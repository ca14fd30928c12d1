"""Every figure in the README comes from a record, from the code, or is said to be the paper's."""

from __future__ import annotations

import re
import runpy
import tomllib

import pytest
from pages import ROOT

README = (ROOT / "README.md").read_text()
MEASURED = re.search(r"<!-- measured -->(.*?)<!-- end -->", README, re.S).group(1)


def python_versions() -> bool:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["requires-python"] == ">=3.11"


def strides() -> bool:
    import tcformer

    model = tcformer.create_model("tcformer_nano", num_classes=0)
    return [level["reduction"] for level in model.feature_info] == [4, 8, 16, 32]


def a_sixteenth() -> bool:
    import tcformer

    return tcformer.create_model("tcformerv2_nano", num_classes=0).ctm1.rule.nest[0] == (4, 4)


def at_224() -> bool:
    return (
        "published_flops(geometry(model), 224, 224)"
        in (ROOT / "tests/contracts/test_docs.py").read_text()
    )


FACTS = {
    r"CVPR 2022|TPAMI 2024|Apache-2.0": None,
    r"Python 3\.11 or newer": python_versions,
    r"strides 4, 8, 16 and 32": strides,
    r"sixteenth of the distances": a_sixteenth,
    r"from 3136 to 49": None,  # printed by the block that test_readme.py::test_python runs
    r"Train on 8 GPUs": None,  # the command below it
    r"GFLOPs at 224 px": at_224,
    r"(ImageNet-1k|top-1|V[12]|TCFormerV2|C\+\+)": None,  # names
}
"""What in the README's sentences has a number in it -> what holds it; None where it is a name."""


def sentences() -> str:
    """The README without code, addresses, the table from records and the zoo's rows."""
    text = re.sub(r"^```.*?^```$", "", README.replace(MEASURED, ""), flags=re.M | re.S)
    text = re.sub(r"^\| `tcformer.*$", "", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)|`[^`]*`", "]", text)


def test_the_table_is_that_of_the_newest_records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    make = runpy.run_path(str(ROOT / "docs" / "make_readme.py"))
    assert make["page"](README) == README, "run `make docs`"


def test_no_figure_stands_in_a_sentence_by_itself():
    text = sentences()
    for fact in FACTS:
        text = re.sub(fact, "", text)
    assert re.findall(r".{0,30}\d.{0,30}", text) == []


@pytest.mark.parametrize("fact", [fact for fact, held in FACTS.items() if held])
def test_the_facts_hold(fact):
    assert re.search(fact, README), f"{fact}: no longer in the README"
    assert FACTS[fact]()


def test_the_papers_figures_are_those_that_its_authors_report():
    from tcformer.models.zoo import ZOO

    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([\d.]+) % \|", README, re.M))
    reported = {
        entry.architecture: re.search(r"[\d.]+", entry.paper).group()
        for entry in ZOO.values()
        if "ImageNet" in entry.task
    }
    assert rows == reported
