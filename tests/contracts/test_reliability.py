"""docs/reliability.md promises what a test holds, and tells what was measured."""

import re
import sys

import pytest
from pages import ROOT

sys.path.append(str(ROOT / "docs"))
import tables

PROMISES = tables.promises()
IDS = [f"{number}: {promise['says'][:40]}" for number, promise in enumerate(PROMISES)]

every = pytest.mark.parametrize("promise", PROMISES, ids=IDS)


@every
def test_a_promise_names_its_tests(promise):
    assert set(promise) <= {"part", "says", "tests", "campaign", "kinds"}
    assert promise["says"].endswith(".")
    assert promise["tests"], "a promise without a test"
    for test in promise["tests"]:
        name, _, function = test.partition("::")
        path = ROOT / "tests" / name
        assert path.is_file(), test
        body = re.search(rf"^def {function}\(.*?(?=^\S|\Z)", path.read_text(), re.M | re.S)
        assert body, test
        above = path.read_text()[: body.start()].rpartition("\n\n")[2]
        assert not re.search(r"mark\.(skip|xfail)\b", above), f"{test} does not run"


@every
def test_a_campaign_exists_and_was_recorded_with_its_kinds(promise):
    if "campaign" in promise:
        name = promise["campaign"]
        assert [*(ROOT / "tests" / "faults").rglob(f"campaign_{name}.py")], name
        record = tables.campaigns().get(name)
        if record is not None:
            assert set(promise.get("kinds", [])) <= set(record["kinds"])
    else:
        assert "kinds" not in promise


def test_no_record_tells_of_a_failure():
    for record in tables.campaigns().values():
        assert record["failures"] == 0, record["file"]
        assert record["trials"] > 0, record["file"]
        assert {"machine", "versions", "commit", "command", "seconds"} <= set(record)


def test_the_page_says_every_promise():
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert re.findall(r"^\* (.*)$", page, re.M) == [promise["says"] for promise in PROMISES]


def test_trials_are_counted_or_nothing_is():
    row = {"trials": 1, "failures": 0}
    kept = {"tests": {"tests": {"a.py::b": row}}, "kill": {"kinds": {"x": row, "y": row}}}
    counted = tables.counted
    assert counted({"tests": ["a.py::b"]}, kept) == {"tests b": row}
    assert counted({"tests": [], "campaign": "kill"}, kept) == {"kill x": row, "kill y": row}
    assert counted({"tests": [], "campaign": "kill", "kinds": ["y"]}, kept) == {"kill y": row}
    assert counted({"tests": ["a.py::b", "a.py::c"]}, kept) == {}
    assert counted({"tests": [], "campaign": "none"}, kept) == {}
