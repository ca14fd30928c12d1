"""What the server answers at all: a short list of addresses, for its own names, up to a size.

Gradio brings more than this page needs: addresses that hand out files, fetch other addresses, run
any function by name. Whatever is not on the list below is not there. Browsers get a policy that
forbids the page to ask anybody but this server: nothing leaves the machine even if a script tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

API = "/gradio_api"

READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt"
    r"|/(?:assets|static)/[\w./@+-]+"
    rf"|{API}/(?:theme\.css|info/?|app_id/?|startup-events|queue/data|heartbeat/\w+)"
)
WRITE = re.compile(rf"{API}/(?:queue/join|reset|cancel)/?")
"""The addresses that the page itself uses: to read, and to start, end or give up a calculation."""

LITTLE = 64 * 1024
"""What a request may weigh besides the picture, in bytes."""

PATIENCE = 4
"""How many times the limit is read of a body that is refused anyway."""

POLICY = (
    "default-src 'self' data: blob:; "
    # Gradio builds its templates and our scripts from text.
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy: everything the page loads comes from this server or from itself."""

_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class _TooLargeError(Exception):
    pass


class Guard:
    """An ASGI application that stands before another one.

    Args:
        app: what answers when the request is let through.
        hosts: the names under which the server may be addressed, without port; empty for any. A
            page of another site that makes its name point at this machine is so kept out.
        most_bytes: of one request's body.
        too_large: the sentence for a larger one.
    """

    def __init__(self, app: App, *, hosts: Iterable[str], most_bytes: int, too_large: str) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.most_bytes = most_bytes
        self.too_large = too_large

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with a sentence."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # the page uses none
                await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._refuse(receive, send, *refusal)
            return
        read, started, goes_on = 0, False, True

        async def counted() -> Message:  # a body may come without a length or with a wrong one
            nonlocal read, goes_on
            message = await receive()
            read += len(message.get("body", b""))
            goes_on = bool(message.get("more_body"))
            if read > self.most_bytes:
                raise _TooLargeError
            return message

        async def reply(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        try:
            await self.app(scope, counted, reply)
        except _TooLargeError:
            if started:
                raise
            await self._refuse(receive, send, 413, self.too_large, goes_on=goes_on)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        # `localhost:7860` and `[::1]:7860` without their ports
        bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self.hosts and bare.lower() not in self.hosts:
            return 403, f"this server does not answer to the name {host!r}"
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"{method} is not answered here"
        if not (WRITE if method == "POST" else READ).fullmatch(path) or ".." in path:
            return 404, "there is nothing here"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "the length of the request is not a number"
        if int(length) > self.most_bytes:
            return 413, self.too_large
        return None

    async def _refuse(
        self, receive: Receive, send: Send, status: int, sentence: str, *, goes_on: bool = True
    ) -> None:
        left = PATIENCE * self.most_bytes if status == 413 and goes_on else 0
        while left > 0:  # who is still sending would not hear an answer
            message = await receive()
            left = left - len(message.get("body", b"")) if message.get("more_body") else 0
        body = json.dumps({"detail": sentence}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            # There may be more of a refused body than we cared to read.
            (b"connection", b"close"),
            *_HEADERS,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
