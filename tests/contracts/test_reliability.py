"""docs/reliability.md promises what a test holds, and tells what was measured."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = runpy.run_path(str(ROOT / "docs" / "make_reliability.py"))
PROMISES = MAKE["promises"]()
IDS = [promise["says"][:40] for promise in PROMISES]

every = pytest.mark.parametrize("promise", PROMISES, ids=IDS)


@every
def test_a_promise_names_its_tests(promise):
    assert set(promise) <= {"part", "says", "tests", "campaign", "kinds"}
    assert promise["part"] in MAKE["PARTS"]
    assert promise["says"].endswith(".")
    assert "|" not in promise["says"]
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
        record = MAKE["records"]().get(name)
        if record is not None:
            assert set(promise.get("kinds", [])) <= set(record["kinds"])
    else:
        assert "kinds" not in promise


def test_no_record_tells_of_a_failure():
    for record in MAKE["records"]().values():
        assert record["failures"] == 0, record["file"]
        assert record["trials"] > 0, record["file"]
        assert {"machine", "versions", "commit", "command", "seconds"} <= set(record)


def test_the_page_is_that_of_the_promises_and_the_records():
    assert (ROOT / "docs" / "reliability.md").read_text() == MAKE["page"](), "run `make docs`"


def test_a_measured_cell_adds_up():
    kept = {
        "tests": {"tests": {"a.py::b": {"trials": 1, "failures": 0, "skipped": 2}}},
        "kill": {
            "kinds": {"x": {"trials": 30, "failures": 1}, "y": {"trials": 1000, "failures": 0}}
        },
    }
    measured = MAKE["measured"]
    assert measured({"tests": ["a.py::b"]}, kept) == "1 case, 0 failures, 2 skipped"
    assert measured({"tests": [], "campaign": "kill"}, kept) == "1,030 trials, 1 failure"
    kept["kill"]["told"] = {"x": "3 MiB"}
    assert measured({"tests": [], "campaign": "kill"}, kept) == "1,030 trials, 1 failure; 3 MiB"
    one = {"tests": [], "campaign": "kill", "kinds": ["y"]}
    assert measured(one, kept) == "1,000 trials, 0 failures"
    assert measured({"tests": ["a.py::c"]}, kept) == MAKE["NOT_MEASURED"]
    assert measured({"tests": [], "campaign": "none"}, kept) == MAKE["NOT_MEASURED"]
