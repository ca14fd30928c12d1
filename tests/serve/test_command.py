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
    ("argv", "sentence"),
    [
        (["--checkpoint", "nowhere.pth"], "nowhere.pth: there is no such file"),
        (["--port", "99999"], "a whole number from 0 to 65535"),
        (["--size", "8"], "a whole number from 16 to 1024, or full"),
        (["--max-upload", "0"], "a number from 0.01 to 100"),
        (["--max-upload", "nan"], "a number from 0.01 to 100"),
        (["--host", "203.0.113.7"], "cannot listen on --host 203.0.113.7"),
        (["--host", "no such host"], "cannot listen on --host no such host"),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence, capsys):
    assert cli.main(["serve", *argv]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127.0.0.1 is taken: say another"):
            server.listen("127.0.0.1", port)


def test_without_a_port_the_next_free_one_is_taken(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(server, "DEFAULT_PORT", port)
        with server.listen("127.0.0.1", None) as listener:
            assert port < listener.getsockname()[1] < port + server.PORTS_TO_TRY
        monkeypatch.setattr(server, "PORTS_TO_TRY", 1)
        with pytest.raises(UserError, match="are all taken"):
            server.listen("127.0.0.1", None)


def test_any_free_port():
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


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (None, "needs Gradio, which is not installed: run pip install 'tcformer[serve]'"),
        ("5.49.1", "needs Gradio 6 and finds 5.49.1: run pip install --upgrade 'tcformer[serve]'"),
    ],
)
def test_without_gradio_the_sentence_names_the_command(version, sentence, monkeypatch, capsys):
    def find(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", find)
    assert cli.main(["serve", "--port", "0"]) == 2
    assert sentence in capsys.readouterr().err


def test_an_unknown_model_names_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(metadata, "version", lambda name: "6.31.0")
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")  # put back afterwards
    assert cli.main(["serve", "--port", "0", "--model", "tcformer_lihgt"]) == 2
    assert "did you mean tcformer_light?" in capsys.readouterr().err


def test_a_second_signal_ends_the_process_the_usual_way():
    before = signal.getsignal(signal.SIGINT)
    end = threading.Event()
    with server._stopping(end):
        assert signal.getsignal(signal.SIGINT) is not before
        signal.raise_signal(signal.SIGINT)
        assert end.is_set()
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


def test_the_desk_finishes_what_it_began_and_begins_nothing_after():
    desk = Desk(Networks([]), size=None, most_bytes=1)
    order = []

    def close():
        desk.close()
        order.append("closed")

    closing = threading.Thread(target=close)
    with desk.working():
        closing.start()
        closing.join(0.05)
        order.append("worked")
    closing.join()
    assert order == ["worked", "closed"]
    with pytest.raises(UserError, match="being closed"), desk.working():
        pass
