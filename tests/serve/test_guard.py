"""Which requests are answered at all, and what every answer carries."""

import asyncio

import pytest

from tcformer.serve.guard import Guard


def ask(
    path,
    *,
    method="GET",
    host="127.0.0.1:7860",
    body=(b"",),
    headers=(),
    hosts=("127.0.0.1", "::1"),
):
    """One request through a guard in front of an application that reads the body and says ok."""
    sent = []
    pieces = list(body)

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    guard = Guard(app, hosts=hosts, most_bytes=100, too_large="at most 100 bytes are taken")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"host", host.encode()), *headers],
    }
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()


@pytest.mark.parametrize(
    "path",
    [
        "/", "/config", "/theme.css", "/assets/index-DphvyggB.js", "/static/img/logo_nosize.svg",
        "/gradio_api/queue/data", "/gradio_api/heartbeat/abc1", "/gradio_api/info",
    ],
)  # fmt: skip
def test_what_the_page_reads_is_answered(path):
    status, headers, _ = ask(path)
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=http://example.com/x",
        "/file=/etc/passwd", "/gradio_api/proxy=http://example.com", "/monitoring",
        "/gradio_api/component_server",
        "/gradio_api/openapi.json", "/docs", "/gradio_api/runs", "/gradio_api/vibe-code",
        "/assets/../../../etc/passwd", "/static/..%2f", "/gradio_api/upload_progress", "/login",
        "/gradio_api/custom_component/1/client/component/../x", "",
    ],
)  # fmt: skip
def test_everything_else_is_not_there(path):
    assert ask(path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/api/predict", "/", "/login",
        "/gradio_api/call/take", "/gradio_api/process_recording", "/gradio_api/queue/data",
    ],
)  # fmt: skip
def test_nothing_else_can_be_sent(path):
    assert ask(path, method="POST")[0] == 404
    assert ask("/gradio_api/queue/join", method="POST")[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(method):
    assert ask("/", method=method)[0] == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "", "127.0.0.1.evil.example"]
)
def test_another_name_for_this_machine_is_refused(host):
    assert ask("/", host=host)[0] == 403
    assert ask("/", host=host, hosts=())[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "[::1]:7860", "[::1]"])
def test_its_own_names_are_answered(host):
    assert ask("/", host=host)[0] == 200


@pytest.mark.parametrize(
    ("body", "length"),
    [((b"x",), b"101"), ((b"x" * 60, b"x" * 60), b""), ((b"x" * 60, b"x" * 60), b"5")],
)
def test_too_much_is_refused_whatever_its_length_says(body, length):
    headers = [(b"content-length", length)] if length else []
    status, _, said = ask("/gradio_api/queue/join", method="POST", body=body, headers=headers)
    assert status == 413
    assert "at most 100 bytes are taken" in said


def test_a_length_that_is_no_number():
    assert ask("/", headers=[(b"content-length", b"-5")])[0] == 400


def test_websockets_are_closed():
    sent = []

    async def send(message):
        sent.append(message)

    guard = Guard(None, hosts=(), most_bytes=1, too_large="")
    asyncio.run(guard({"type": "websocket"}, None, send))
    assert sent[0]["type"] == "websocket.close"


def test_a_refused_body_is_read_to_its_end_but_not_for_ever():
    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"x" * 90, "more_body": True}

    async def send(message):
        pass

    guard = Guard(None, hosts=(), most_bytes=100, too_large="")
    headers = [(b"content-length", b"99999999")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/queue/join", "headers": headers}
    asyncio.run(guard(scope, receive, send))
    assert len(read) == 5  # four times the limit
