"""`tcformer serve` before it serves: options, ports, hosts, a missing Gradio."""

import signal
import socket
import threading
from importlib import metadata

import pytest

from tcformer import cli
from tcformer.errors import UserError
from tcformer.serve import server
from tcformer.serve.networks import Networks
from tcformer.serve.page import Desk


@pytest.mark.parametrize(
    ("argv", "version", "sentence"),
    [
        (["--checkpoint", "nowhere.pth"], "6", "nowhere.pth: there is no such file"),
        (["--port", "99999"], "6", "a whole number from 0 to 65535"),
        (["--size", "8"], "6", "a whole number from 16 to 1024, or full"),
        (["--max-upload", "0"], "6", "a number from 0.01 to 100"),
        (["--max-upload", "nan"], "6", "a number from 0.01 to 100"),
        (["--host", "203.0.113.7"], "6", "cannot listen on --host 203.0.113.7"),
        (["--host", "no such host"], "6", "cannot listen on --host no such host"),
        (["--model", "tcformer_lihgt"], "6.31.0", "did you mean tcformer_light?"),
        ([], None, "needs Gradio, which is not installed: run pip install 'tcformer[serve]'"),
        ([], "5.49.1", "finds 5.49.1: run pip install --upgrade 'tcformer[serve]'"),
    ],
)
def test_a_mistake_is_one_sentence(argv, version, sentence, monkeypatch, capsys):
    def find(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", find)
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")  # put back afterwards
    assert cli.main(["serve", "--port", "0", *argv]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_port_that_is_taken_and_the_next_free_one(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127.0.0.1 is taken: say another"):
            server.listen("127.0.0.1", port)
        monkeypatch.setattr(server, "DEFAULT_PORT", port)
        with server.listen("127.0.0.1", None) as listener:
            assert port < listener.getsockname()[1] < port + server.PORTS_TO_TRY
        monkeypatch.setattr(server, "PORTS_TO_TRY", 1)
        with pytest.raises(UserError, match="each port from"):
            server.listen("127.0.0.1", None)
    with server.listen("localhost", 0) as listener:
        assert listener.getsockname()[1] > 0


@pytest.mark.parametrize(
    ("host", "alone", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:80"),
        ("localhost", True, "http://localhost:80"),
        ("::1", True, "http://[::1]:80"),
        ("0.0.0.0", False, "http://127.0.0.1:80"),
        ("::", False, "http://[::1]:80"),
        ("192.0.2.1", False, "http://192.0.2.1:80"),
        ("a-name", False, "http://a-name:80"),
    ],
)
def test_hosts(host, alone, url):
    assert server.is_loopback(host) == alone
    assert bool(server.known_hosts(host)) == alone
    assert server.address(host, 80) == url


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_the_usual_way(number):
    before = signal.getsignal(number)
    end = threading.Event()
    with server._stopping(end):
        assert signal.getsignal(number) is not before
        signal.raise_signal(number)
        assert end.is_set()
        assert signal.getsignal(number) is before


def test_the_desk_finishes_what_it_began_and_begins_nothing_after():
    desk = Desk(Networks([]), size=None, most_bytes=1)
    order = []
    closing = threading.Thread(target=lambda: (desk.close(), order.append("closed")))
    with desk.working():
        closing.start()
        closing.join(0.05)
        order.append("worked")
    closing.join()
    assert order == ["worked", "closed"]
    with pytest.raises(UserError, match="being closed"), desk.working():
        pass
