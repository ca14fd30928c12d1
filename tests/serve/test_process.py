"""The running server: how it ends, what it refuses, and that it does not grow."""

import itertools
import json
import re
import signal
import urllib.error
import urllib.request

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


def ask(url, path, body=None, timeout=60):
    """Status and text of one request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def functions(url):
    """Name of an event of the picker, or "load" -> number of its function, as the page has them."""
    _, page = ask(url, "/config")
    config = json.loads(page)
    picker = next(
        each["id"] for each in config["components"] if each["props"].get("elem_id") == "tcf-picker"
    )
    return {
        event: each["id"]
        for each in config["dependencies"]
        for target, event in each["targets"]
        if target == picker or event == "load"
    }


sessions = itertools.count()


def call(url, function, data, event=None):
    """Ask for one calculation as a new tab does; what the server sends back at its end."""
    session = f"tab{next(sessions)}"
    body = {
        "data": data, "fn_index": function, "session_hash": session, "event_data": event,
        "trigger_id": None,
    }  # fmt: skip
    status, text = ask(url, "/gradio_api/queue/join", body)
    if status != 200:
        return status, text
    stream = urllib.request.urlopen(
        f"{url}/gradio_api/queue/data?session_hash={session}", timeout=60
    )
    with stream:
        for line in stream:
            if b"process_completed" in line or b"unexpected_error" in line:
                return 200, line.decode()
    return 200, ""


CHOICES = ["tcformer_nano (random)", "nothing", "mean colours", "whole picture"]


def test_hostile_requests(served):
    url = served.url
    for path in (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/proxy=http://example.com/",
        "/monitoring",
        "/file=/etc/hostname",
    ):
        assert ask(url, path)[0] == 404, path
    assert ask(url, "/gradio_api/upload", {})[0] == 404
    assert ask(url, "/gradio_api/queue/join", {"data": ["x" * 4_000_000]})[0] == 413
    numbers = functions(url)
    for name, data, event in (
        ("load", [None, "/etc/passwd", *CHOICES[1:]], None),
        ("load", [None, *CHOICES[:2], "no such paint", CHOICES[3]], None),
        ("load", ["../../etc/passwd", *CHOICES], None),
        ("load", [None], None),
        ("load", [{"path": "http://a.example/a.png", "meta": {"_type": "gradio.FileData"}}], None),
        ("select", [None, *CHOICES], {"example": "/etc/passwd"}),
        ("select", [None, *CHOICES], ["house"]),
        ("upload", [None, *CHOICES], {"name": "a", "data": "/etc/passwd"}),
        ("upload", [None, *CHOICES], {"path": "/etc/passwd"}),
        ("upload", [None, *CHOICES], None),
    ):
        status, said = call(url, numbers[name], data, event)
        assert "root:" not in said, (name, data, event)
        assert "Traceback" not in said, (name, data, event)
        assert status < 600
    status, said = call(url, numbers["select"], [None, *CHOICES], {"example": "person"})
    assert status == 200
    assert re.search(r"person.{1,9}original", said), said[:300]


def test_it_does_not_grow(served):
    psutil = pytest.importorskip("psutil", reason="psutil looks at the server from outside")
    process = psutil.Process(served.process.pid)
    select = functions(served.url)["select"]
    names = ["house", "person", "shapes"]

    def work(times):
        for turn in range(times):
            _, said = call(served.url, select, [None, *CHOICES], {"example": names[turn % 3]})
            assert '"success":true' in said.replace(" ", "")

    work(15)
    before = process.memory_info().rss
    work(45)
    assert process.memory_info().rss - before < 30 * 2**20


def test_ctrl_c_ends_it_in_the_middle_of_a_calculation_while_a_tab_is_open(browser, served):
    """The last test of this server; `test_command` has SIGTERM."""
    tab = browser.new_page()
    tab.goto(served.url)
    tab.locator(".tcf-map[data-ready]").wait_for()
    select = functions(served.url)["select"]
    body = {"data": [None, *CHOICES], "fn_index": select, "session_hash": "last"}
    for name in ("house", "person", "shapes") * 4:
        ask(served.url, "/gradio_api/queue/join", {**body, "event_data": {"example": name}})
    errors = served.errors.read_text()
    status, printed, seconds = served.stop(signal.SIGINT)
    assert (status, printed) == (0, "stopped\n")
    assert served.errors.read_text() == errors
    assert seconds < 30  # of which the interpreter's own end takes most
    tab.close()
