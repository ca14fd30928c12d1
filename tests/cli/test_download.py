"""`tcformer download` against a server on 127.0.0.1."""

import contextlib
import http.server
import signal
import threading
import time

import pytest
import torch

import tcformer
from tcformer.cli import main
from tcformer.weights.released import RELEASED, Download, Release, file_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TCFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TCFORMER_ZOO_URL", "http://127.0.0.1:9")  # nobody listens: never outside
    return tmp_path / "cache"


@contextlib.contextmanager
def served(handler):
    """Answer on 127.0.0.1; yields the address."""
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def refused(capsys, *argv: str) -> str:
    assert main(["download", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize("known", [False, True])
def test_download_says_what_it_did(capsys, monkeypatch, tmp_path, cache, known):
    folder = tmp_path / "served"
    folder.mkdir()
    model = tcformer.create_model("tcformer_nano", num_classes=3)
    torch.save({"model": model.state_dict()}, folder / "tiny.pth")
    digits = file_sha256(folder / "tiny.pth")[:8] if known else ""
    source = Download("tiny.pth", "https://example.invalid/tiny.pth", "", digits)
    monkeypatch.setitem(RELEASED, "tiny", Release("tiny", "tcformer_nano", "", "", (source,)))
    handler = type("Files", (http.server.SimpleHTTPRequestHandler,), {})
    monkeypatch.chdir(folder)
    with served(handler) as address:
        call = ["tiny", "--base-url", address]
        if known:
            call += ["--cache-dir", str(cache := tmp_path / "mine")]
        assert main(["download", *call]) == 0
        out = capsys.readouterr().out
        assert str(cache / "tiny.safetensors") in out
        assert (f"SHA-256 begins with {digits}" if known else "hash unknown, not verified") in out
        assert f"{address}/tiny.pth" in out
        (folder / "tiny.pth").unlink()
        assert main(["download", *call]) == 0, "kept, so not asked for again"
        assert capsys.readouterr().out == out
        assert "404" in refused(capsys, *call, "--force")
        assert (cache / "tiny.safetensors").is_file(), "a failure keeps the old file"


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

    with served(Stalling) as address:
        assert main(["download", "tcformer", "--base-url", address]) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"put it at {cache / 'tcformer-4e1adbf1_20220421.pth'}" in err
    assert [file.name for file in cache.iterdir()] == [".tcformer.lock"]
