"""docs/reliability.md promises what a test holds, and tells what was measured."""

import re
import runpy
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


def test_a_record_of_tests_can_be_made_in_parts():
    run = runpy.run_path(str(ROOT / "tests" / "faults" / "run.py"))
    named = run["tests_named"](None)
    some = run["tests_named"](["faults/disks/*", "*::test_one_failure_ends_all"])
    assert "runtime/test_launch.py::test_one_failure_ends_all" in some
    assert 1 < len(some) < len(named)
    assert all(t.startswith("faults/disks/") or t.endswith("_ends_all") for t in some)

    def part(commit, tests, failed=(), torch="2"):
        rows = {t: {"trials": 2, "failures": int(t in failed), "skipped": 0} for t in tests}
        told = [f"{t}[x]" for t in failed]
        circumstances = {"command": f"c {commit}", "date": "d", "time": "t", "commit": commit,
                         "changed": False, "load_average_at_start": 1.0, "seconds": 5}  # fmt: skip
        on = {"machine": {"processor": "p"}, "versions": {"torch": torch}}
        return circumstances | on | run["summed"](rows, told)

    first = part("1", [*named[:3], "gone.py::test_gone"], failed=named[1:3])
    both = run["joined"](first, part("2", named[2:4]))
    assert list(both["tests"]) == named[:4]
    assert (both["trials"], both["failures"], both["seconds"]) == (8, 1, 10)
    assert both["failed"] == [f"{named[1]}[x]"], "what ran again is replaced"
    three = run["joined"](both, part("2", named[1:2]))
    assert (three["failures"], three["trials"]) == (0, 8)
    assert [each["commit"] for each in three["parts"]] == ["1", "2", "2"]
    assert run["against_joining"](first, both) is None
    assert "torch 2, not of 3" in run["against_joining"](first, part("2", named[2:4], torch="3"))
