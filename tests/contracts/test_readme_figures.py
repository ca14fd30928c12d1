"""Every figure in the README comes from a record, from the code, or is said to be the paper's."""

from __future__ import annotations

import functools
import json
import re
import sys
import tomllib

import pytest
from pages import ROOT, blocks

sys.path.append(str(ROOT / "docs"))
import make_readme

README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


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


def merging() -> bool:
    """The comment of the first block, whose numbers test_readme.py::test_python compares."""
    ((_, text),) = blocks(README, "python")
    promised = re.findall(r"\d+", text.rpartition("#")[2])
    return (promised[0], promised[-1]) == ("3136", "49")


def eight() -> bool:
    return "\nsh dist_train.sh configs/tcformer/tcformer.py 8 " in README


def three_commands() -> bool:
    block = README.partition("Three commands to see it")[2].partition("```sh\n")[2]
    return block.partition("\n```")[0].count("\n") == 2


def minutes_of_the_demo() -> bool:
    """The demo trains by the recipe of the digits, and on one thread as those runs did."""
    records = [*(RESULTS / "learning").glob("digits-tcformer_nano-seed*.json")]
    seconds = [json.loads(path.read_text())["processor_seconds"] for path in records]
    return bool(seconds) and 60 < sum(seconds) / len(seconds) < 300


FACTS = {
    r"Python 3\.11 or newer": python_versions,
    r"strides 4, 8, 16 and 32": strides,
    r"sixteenth of the distances": a_sixteenth,
    r"from 3136 to 49": merging,
    r"Train on 8 GPUs": eight,
    r"Three commands to see it": three_commands,
    r"a few minutes on two cores": minutes_of_the_demo,
}
"""What in the README's sentences is a number -> what holds it."""

NAMES = (
    r"CVPR 2022|TPAMI 2024|Apache-2\.0|\[V2 beside V1\]|\bTCFormerV2\b|C\+\+|timm's `pvt_v2_b\d`"
    r"|`tcformerv2_(?:nano|light|base|large)`"
)
"""What has a number in it and tells none."""

WORDS = (
    r"\b(half|halves|twice|thrice|doubl\w+|tripl\w+|thirds?|quarters?|couple|dozens?|percent|"
    r"per cent|magnitudes?|several|times|\w*fold|seconds?|minutes?|hours?|days?|faster|slower|"
    r"cheaper|better|worse|more accurate|most accurate|best|"
    r"(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|"
    r"fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion)t?h?s?)\b"
)
"""Figures without digits, and what is said instead of one."""


tables = functools.cache(make_readme.tables)


def loose_figures(text: str) -> list[str]:
    """Figures of a README that nothing holds; what the two tables hold is that of `make docs`."""
    for name, made in tables().items():
        text = text.replace(f"<!-- {name} -->\n\n{made}\n<!-- end -->", "", 1)
    # A command's numbers claim nothing; its comments may. A number in a comment of Python is
    # compared with what the line prints (test_readme.py).
    for language, block in blocks(text):
        kept = block if language == "text" else "\n".join(re.findall(r"(?:^|\s)#.*", block))
        if language == "python":
            kept = re.sub(r"# .*\n?\Z", "", kept) if "print(" in block.splitlines()[-1] else kept
        text = text.replace(f"```{language}\n{block}```", kept)
    text = re.sub(r"\]\([^)\s]*\)", "]", text)  # addresses; a title behind one stays
    for fact in (*FACTS, NAMES):
        text = re.sub(fact, "", text)
    text = text.replace("&", "0")  # &frac12; and its kind
    digits = [m.start() for m in re.finditer(r".", text, re.S) if m[0].isnumeric()]
    words = [m.start() for m in re.finditer(WORDS, text, re.I)]
    return [text[max(0, at - 30) : at + 30] for at in (*digits, *words)]


def test_the_tables_are_those_of_the_records_and_of_the_code():
    assert make_readme.page(README, tables()) == README, "run `make docs`"


def test_no_figure_stands_in_the_readme_by_itself():
    assert loose_figures(README) == []


SLIPPED_IN = {
    "a sentence": ("Then read on in", "It is 3.1 times faster. Then read on in"),
    "words": ("Then read on in", "It is twice as fast. Then read on in"),
    "a word for a measurement": ("Then read on in", "It is faster. Then read on in"),
    "a fraction": ("Then read on in", "It takes \u00bd of the time. Then read on in"),
    "an entity": ("Then read on in", "It takes &frac12; of the time. Then read on in"),
    "inline code": ("Then read on in", "It takes `0.53` of the time. Then read on in"),
    "inline code like a name": ("`tcformerv2_base`", "`tcformerv2_base_87`"),
    "a name": ("`tcformerv2_base`", "`tcformerv2_base`87"),
    "the caption": ("Drawn by `tcformer show`", "87 tokens, drawn by `tcformer show`"),
    "words for a picture": ("![A drawing", "![An 87 % right drawing"),
    "a title of a link": ("](docs/index.md)", '](docs/index.md "87 % right")'),
    "an attribute": ("## Set-up", '<img src="x.png" alt="87 % right">\n\n## Set-up'),
    "a heading": ("## Set-up", "## Set-up in 9 seconds"),
    "a row of the zoo": ("| `tcformer_large` |", "| `tcformer` | fast | 1 | 99.9 % | |\n| `x` |"),
    "a cell of the zoo": ("| 83.6 % | not run |", "| 83.6 % | 84.0 % |"),
    "the paper's figure": ("| 83.6 % |", "| 84.6 % |"),
    "another table of the zoo": ("## More", "| `tcformer` | 87 % |\n\n## More"),
    "a row of what is measured": ("| ImageNet | not run |", "| ImageNet | 82.3 % |"),
    "a second table": ("## More", "<!-- measured -->\n\n| a | 87 % |\n\n<!-- end -->\n\n## More"),
    "a comment of a command": ("make demo\n", "make demo  # 87 % right\n"),
    "a comment in Python": ("import timm\n", "import timm  # 87 % right\n"),
    "text": ("```text\n", "```text\nTCFormer is right 87 times of a hundred.\n"),
    "a comment of the page": ("## More", "<!-- 87 % right -->\n\n## More"),
}


@pytest.mark.parametrize("place", SLIPPED_IN)
def test_a_figure_that_slips_in_is_found(place):
    before, after = SLIPPED_IN[place]
    assert before in README
    assert loose_figures(README.replace(before, after, 1)) != []


@pytest.mark.parametrize("fact", FACTS)
def test_the_facts_hold(fact):
    assert re.search(fact, README), f"{fact}: no longer in the README"
    if fact == "a few minutes on two cores" and not [*(RESULTS / "learning").glob("digits-*")]:
        pytest.skip("no record of the digits yet")
    assert FACTS[fact]()


def test_pictures_are_made_by_our_own_scripts():
    makers = "".join(path.read_text() for path in (ROOT / "docs").glob("make_*.py"))
    for name in re.findall(r"docs/images/([\w.-]+)\)", README):
        assert f'"{name}"' in makers, f"{name}: a picture that nobody can make again"


def test_the_papers_figures_are_those_that_its_authors_report():
    from tcformer.models.zoo import ZOO

    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([\d.]+) % \|", README, re.M))
    reported = {
        entry.architecture: re.search(r"[\d.]+", entry.paper).group()
        for entry in ZOO.values()
        if "ImageNet" in entry.task
    }
    assert rows == reported


def test_every_record_that_is_named_tells_where_it_is_from():
    for name in re.findall(r"`benchmarks/results/([\w.-]+\.json)`", README):
        record = json.loads((RESULTS / name).read_text())
        assert record["changed"] is False, f"{name}: made by sources that were never committed"
        assert record["command"]
        assert record["machine"]["processor"]
