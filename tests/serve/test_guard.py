"""Which requests are answered at all, and what every answer carries."""

import asyncio

import pytest

from tcformer.serve.guard import Guard

JOIN = "/gradio_api/queue/join"


def ask(path, *, method="GET", host="127.0.0.1:7860", body=(b"",), headers=(), hosts=("127.0.0.1",
        "::1")):  # fmt: skip
    """One request through a guard in front of an application that reads the body and says ok."""
    sent, read = [], []

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive():
        read.append(body[min(len(read), len(body) - 1)])
        return {"type": "http.request", "body": read[-1], "more_body": len(read) < len(body)}

    async def send(message):
        sent.append(message)

    guard = Guard(app, hosts=hosts, most_bytes=100, too_large="at most 100 bytes are taken")
    headers = [(b"host", host.encode()), *headers]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode(), len(read)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/config", "/theme.css", "/assets/index-DphvyggB.js", "/static/img/logo_nosize.svg",
        "/gradio_api/queue/data", "/gradio_api/heartbeat/abc1", "/gradio_api/info",
    ],
)  # fmt: skip
def test_what_the_page_reads_is_answered(path):
    status, headers, *_ = ask(path)
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    ("method", "paths", "status"),
    [
        ("GET", (
            "/gradio_api/file=/etc/passwd", "/gradio_api/file=http://example.com/x",
            "/file=/etc/passwd", "/gradio_api/proxy=http://example.com", "/monitoring",
            "/gradio_api/component_server",
            "/gradio_api/openapi.json", "/docs", "/gradio_api/runs", "/gradio_api/vibe-code",
            "/assets/../../../etc/passwd", "/static/..%2f", "/gradio_api/upload_progress",
            "/gradio_api/custom_component/1/client/component/../x", "/login", "",
        ), 404),
        ("POST", (
            "/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/api/predict", "/",
            "/gradio_api/call/take", "/gradio_api/process_recording", "/gradio_api/queue/data",
            "/login",
        ), 404),
        ("POST", (JOIN,), 200),
        *((method, ("/",), 405) for method in ("PUT", "DELETE", "OPTIONS", "TRACE")),
    ],
)  # fmt: skip
def test_everything_else_is_not_there(method, paths, status):
    assert {path: ask(path, method=method)[0] for path in paths} == dict.fromkeys(paths, status)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((name, 403) for name in ("evil.example:7860", "", "127.0.0.1.evil.example")),
        *((name, 200) for name in ("127.0.0.1", "127.0.0.1:80", "[::1]:7860", "[::1]")),
    ],
)
def test_only_its_own_names_are_answered(host, status):
    assert ask("/", host=host)[0] == status
    assert ask("/", host=host, hosts=())[0] == 200


@pytest.mark.parametrize(
    ("body", "length", "pieces"),
    [
        ((b"x",), b"101", 1),
        ((b"x" * 60, b"x" * 60), b"", 2),
        ((b"x" * 60, b"x" * 60), b"5", 2),
        ((b"x" * 90,) * 99, b"99999999", 5),  # read for the answer to be heard, but not for ever
    ],
)
def test_too_much_is_refused_whatever_its_length_says(body, length, pieces):
    headers = [(b"content-length", length)] if length else []
    status, _, said, read = ask(JOIN, method="POST", body=body, headers=headers)
    assert (status, read) == (413, pieces)
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
