"""The documentation is true: links lead somewhere, code parses, commands and options exist."""

import ast
import importlib
import re
from itertools import pairwise
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks

from tcformer import cli

IDS = [path.name for path in PAGES]
PAGES_BY_NAME = {path.name: path.read_text() for path in PAGES}

pages = pytest.mark.parametrize("page", PAGES, ids=IDS)


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings make."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pages
def test_internal_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if fragment:
            assert fragment in anchors(path), f"{page.name}: {target}"


@pages
def test_python_blocks_parse(page):
    for language, text in blocks(page.read_text()):
        if language == "python":
            ast.parse(text)


@pages
def test_fences_say_what_they_hold(page):
    for language, text in blocks(page.read_text()):
        assert language in {"sh", "python", "text", "console"}, text


@pages
def test_files_that_are_named_exist(page):
    # `models/mta.py` may leave out src/tcformer/ in front.
    for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|sh|md|toml|json|lock))`", page.read_text()):
        places = [ROOT, ROOT / "src" / "tcformer"]
        assert any((place / name).exists() for place in places), f"{page.name}: {name}"


@pages
def test_tests_that_are_named_exist(page):
    for name, function in re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text()):
        path = ROOT / "tests" / name
        assert path.exists(), f"{page.name}: {name}"
        assert re.search(rf"^def {function}\(", path.read_text(), re.M), f"{page.name}: {function}"


@pages
def test_verbs_that_are_named_exist(page):
    for verb in re.findall(r"(?:^|`|\$ )tcformer ([a-z]\w*)", page.read_text(), re.M):
        assert verb in cli.VERBS, f"{page.name}: tcformer {verb}"


@pages
def test_make_targets_that_are_named_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M).group(1).split())
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M):
        assert target in targets, f"{page.name}: make {target}"


def test_every_make_target_is_explained():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M).group(1).split())
    explained = set(re.findall(r"@echo 'make ([a-z-]+) ", makefile))
    assert explained == targets - {"help"}


def test_every_page_is_reachable_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text()):
            path = (page.parent / target).resolve()
            if path.exists() and path not in seen:
                ahead.append(path)
    assert set(PAGES) <= seen


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_option_of_every_verb_is_in_its_help(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    importlib.import_module(f"tcformer.cli.{verb.replace('-', '_')}")
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    # Some words beside each option: a bare name explains nothing.
    for option in re.findall(r"^\W*(--[\w-]+)", text, re.M):
        assert re.search(rf"{option}.*?(?:\s{{2,}}|\n\s+)\w+:? \w+", text, re.S), option


def test_no_figure_is_ours_without_a_record():
    # A figure enters this column together with its record; until then it says so.
    rows = re.findall(r"^\| `tcformer\w*` \|.*\| ([^|]+) \|$", PAGES_BY_NAME["README.md"], re.M)
    assert rows == ["not run"] * 8


def test_the_design_names_every_module_and_no_other():
    tree = PAGES_BY_NAME["design.md"].partition("src/tcformer/\n")[2].partition("```")[0]
    named = re.findall(r"^    (\w+)(?:/|\.py)", tree, re.M)
    there = [path for path in (ROOT / "src" / "tcformer").glob("[!_]*") if path.name != "py.typed"]
    assert sorted(named) == sorted(path.stem for path in there)


def test_every_page_is_in_the_sites_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    navigation = text.partition("\nnav:\n")[2]
    named = re.findall(r"^ +- (?:[^:\n]+: )?([\w/]+\.md)$", navigation, re.M)
    # Made while the site is built (docs/make_site.py).
    made = {"index.md", "options.md", "tour.md", "contributing.md", "changelog.md"}
    assert sorted(named) == sorted({page.name for page in ROOT.glob("docs/*.md")} | made)


@pages
def test_lists_and_tables_stand_apart(page):
    # Markdown of the site, unlike GitHub's, makes a list or table only after an empty line.
    text = re.sub(r"^```.*?^```$", "```", page.read_text(), flags=re.M | re.S)
    lines = text.splitlines()
    for before, line in pairwise(lines):
        starts = re.match(r"\* |\d+\. |\|", line)
        prose = not re.match(r"\* |\d+\. |\||\s|$", before)
        assert not (starts and prose), f"{page.name}: an empty line is missing before {line!r}"


@pages
def test_pages_have_one_title_and_pictures_have_words(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    assert len(re.findall(r"^# ", text, re.M)) == 1
    assert text.lstrip().startswith("# ")
    assert re.findall(r"!\[\]\(", text) == []
