"""`tcformer download` against a server on 127.0.0.1."""

import http.server
import signal
import threading
import time

import pytest
import torch

import tcformer
from tcformer.cli import main
from tcformer.weights import released as zoo
from tcformer.weights.released import RELEASED, Download, Release


@pytest.fixture
def tiny(monkeypatch) -> Release:
    source = Download("tiny.pth", "https://example.invalid/tiny.pth")
    entry = Release("tiny", "tcformer_nano", "a test", "99.9 % top-1", (source,))
    monkeypatch.setitem(RELEASED, "tiny", entry)
    return entry


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TCFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TCFORMER_ZOO_URL", "http://127.0.0.1:9")  # nobody listens: never outside
    return tmp_path / "cache"


@pytest.fixture
def serve(tmp_path):
    """Start a server for the files put into a folder; yields (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def publish(folder, name: str) -> None:
    model = tcformer.create_model("tcformer_nano", num_classes=3)
    torch.save({"model": model.state_dict()}, folder / name)


def refused(capsys, *argv: str) -> str:
    assert main(["download", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


def test_download_says_what_it_did(capsys, cache, serve, tiny):
    folder, address = serve
    publish(folder, "tiny.pth")
    assert main(["download", "tiny", "--base-url", address]) == 0
    out = capsys.readouterr().out
    assert str(cache / "tiny.safetensors") in out
    assert "hash unknown, not verified" in out
    assert f"{address}/tiny.pth" in out
    (folder / "tiny.pth").unlink()
    assert main(["download", "tiny", "--base-url", address]) == 0, "kept, so not asked for again"
    assert capsys.readouterr().out == out
    assert "404" in refused(capsys, "tiny", "--base-url", address, "--force")
    assert (cache / "tiny.safetensors").is_file(), "a failure keeps the old file"


def test_known_hash_is_named(capsys, monkeypatch, tmp_path, serve, tiny):
    folder, address = serve
    publish(folder, "tiny.pth")
    digits = zoo.file_sha256(folder / "tiny.pth")[:8]
    source = Download("tiny.pth", "https://example.invalid/tiny.pth", "", digits)
    monkeypatch.setitem(RELEASED, "tiny", Release("tiny", "tcformer_nano", "", "", (source,)))
    options = ["--cache-dir", str(tmp_path / "mine"), "--base-url", address]
    assert main(["download", "tiny", *options]) == 0
    out = capsys.readouterr().out
    assert f"SHA-256 begins with {digits}" in out
    assert str(tmp_path / "mine" / "tiny.safetensors") in out


def test_by_hand_after_a_failure(capsys, cache, tiny):
    text = refused(capsys, "tiny")
    assert f"put it at {cache / 'tiny.pth'}" in text
    publish(cache, "tiny.pth")
    assert main(["download", "tiny"]) == 0
    assert (cache / "tiny.safetensors").is_file()


def test_published_names_fail_in_one_sentence_without_a_connection(capsys, cache):
    for name in RELEASED:
        text = refused(capsys, name)
        assert name in text
        assert str(cache) in text
        assert "no connection" in text


def test_list_claims_nothing(capsys):
    assert main(["download", "--list"]) == 0
    out = capsys.readouterr().out
    assert "paper's" in out
    for entry in RELEASED.values():
        assert entry.name in out
        assert all(source.address in out for source in entry.sources)
    assert "4e1adbf1" in out
    assert "a47cc309" in out
    assert "hash unknown" in out


def test_mistakes(capsys):
    assert "--list" in refused(capsys)
    text = refused(capsys, "tcformer_lite")
    assert "tcformer_light" in text
    assert "--base-url" in refused(capsys, "tcformer", "--base-ulr", "http://127.0.0.1")


def test_interruption_leaves_nothing_and_says_what_to_do(capsys, cache):
    main_thread = threading.main_thread().ident

    class Stalling(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"PK\x03\x04" * 1000)
            self.wfile.flush()
            time.sleep(0.2)
            signal.pthread_kill(main_thread, signal.SIGINT)  # Ctrl-C in the middle of the file
            time.sleep(5)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert main(["download", "tcformer", "--base-url", address]) == 130
        server.shutdown()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"put it at {cache / 'tcformer-4e1adbf1_20220421.pth'}" in err
    assert [file.name for file in cache.iterdir()] == [".tcformer.lock"]
