"""Run the page: a socket, a server in this thread, an end on Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tcformer.errors import UserError
from tcformer.serve.guard import App

DEFAULT_PORT = 7860
PORTS_TO_TRY = 20

SECONDS_TO_END = 1
"""How long open connections may go on after Ctrl-C; a browser tab holds one for as long as it is
open."""


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket.

    Args:
        host: a name or an address of this machine.
        port: 0 for any free one; None for the first free one from `DEFAULT_PORT` on.

    Raises:
        UserError: the port is taken or needs other rights, or the host is not this machine's.
    """
    ports = range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TO_TRY) if port is None else (port,)
    for candidate in ports:
        try:
            return _bound(host, candidate)
        except PermissionError as error:
            raise UserError(
                f"port {candidate} needs the rights of an administrator: say --port 0 or one from "
                "1024 on"
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise UserError(
                f"cannot listen on --host {host} ({error.strerror or error}): 127.0.0.1 is this "
                "machine alone, 0.0.0.0 all of its addresses"
            ) from error
    which = f"port {port}" if port is not None else f"each port from {ports[0]} to {ports[-1]}"
    raise UserError(f"{which} of {host} is taken: say another --port, or --port 0 for any free one")


def _bound(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere the option would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]"))
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    parsed = _parsed(host)
    return host.lower() == "localhost" if parsed is None else parsed.is_loopback


def known_hosts(host: str) -> frozenset[str]:
    """The names that a browser may address the server by; none (any) when others may reach it."""
    if not is_loopback(host):
        return frozenset()
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower().strip("[]")})


def address(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    parsed = _parsed(host)
    if parsed is not None and parsed.is_unspecified:
        parsed = ipaddress.ip_address("::1" if parsed.version == 6 else "127.0.0.1")
    if parsed is not None:
        host = f"[{parsed}]" if parsed.version == 6 else f"{parsed}"
    return f"http://{host}:{port}"


def run(app: App, listener: socket.socket, *, ready: Callable[[], None]) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM; then let go of the connections and return.

    `listener` is closed at the end; `ready` is called when the first request can be answered.
    """
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=SECONDS_TO_END,
            server_header=False,
        )
    )
    # uvicorn's own handlers raise the signal again after the end, which would look like a failure.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    end = threading.Event()
    with _stopping(end), listener:
        thread.start()
        while thread.is_alive() and not server.started and not end.is_set():
            end.wait(0.02)
        if server.started:
            ready()
        while thread.is_alive() and not end.wait(0.5):
            pass
        died = not end.is_set()
        # Every open tab holds a connection that never ends by itself; uvicorn calls it an error
        # with a traceback when it cuts them.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        server.should_exit = True
        thread.join(SECONDS_TO_END + 4)
    if died:
        raise RuntimeError("the server ended by itself")


@contextmanager
def _stopping(end: threading.Event) -> Iterator[None]:
    """Set `end` on SIGINT and SIGTERM; a second one ends the process the usual way."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(*_: object) -> None:
        end.set()
        give_back()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        give_back()


def open_browser(url: str) -> None:
    """Show the page in the user's browser; where there is none, say so."""
    if not webbrowser.open(url):
        print(f"note: no browser could be started; open {url} yourself", file=sys.stderr)
