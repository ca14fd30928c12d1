"""The zoo against a server on 127.0.0.1: nothing here leaves this machine."""

import hashlib
import http.server
import io
import socket
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

import tcformer
from tcformer.errors import UserError
from tcformer.weights import released as zoo
from tcformer.weights.load import load_checkpoint
from tcformer.weights.released import RELEASED, Download, Release, pretrained_path
from tcformer.weights.safe_torch import read_checkpoint

PAGE = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; notes what was asked for; can promise more than it sends, or stall."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.promise_more = 0
        self.stall = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/loop/"):
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + self.server.promise_more))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if self.server.stall:
            time.sleep(30)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return tcformer.create_model("tcformer_nano", num_classes=4).state_dict()


@pytest.fixture(scope="module")
def published(weights) -> bytes:
    """A file as the authors publish them, with our smallest network in it."""
    buffer = io.BytesIO()
    torch.save({"model": weights}, buffer)
    return buffer.getvalue()


@pytest.fixture
def entry(monkeypatch, published) -> Release:
    digits = hashlib.sha256(published).hexdigest()[:8]
    source = Download(f"tiny-{digits}.pth", "https://example.invalid/tiny.pth", "", digits)
    entry = Release("tiny", "tcformer_nano", "a test", "99.9 % top-1", (source,))
    monkeypatch.setitem(RELEASED, "tiny", entry)
    return entry


def refused(cache: Path, entry: Release, *words: str, by_hand: bool = False, **options) -> None:
    """Refused in one sentence with the words; nothing but the lock is left behind."""
    before = {file.name for file in cache.iterdir()}
    with pytest.raises(UserError) as caught:
        pretrained_path(entry.name, cache_dir=cache, progress=False, **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    if by_hand:  # it says where to get the file, and where to put it
        source = entry.sources[0]
        assert source.address in text
        assert f"put it at {cache / source.file_name}" in text
    assert {file.name for file in cache.iterdir()} - before <= {f".{entry.name}.lock"}


def test_fetches_verifies_converts_and_keeps(tmp_path, server, entry, published, weights):
    server.files[entry.sources[0].file_name] = published
    path = pretrained_path("tiny", cache_dir=tmp_path, base_url=server.url + "/", progress=False)
    assert path == tmp_path / "tiny.safetensors"
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "safetensors"
    assert all(torch.equal(checkpoint.state_dict[key], value) for key, value in weights.items())
    assert checkpoint.meta["sha256"] == hashlib.sha256(published).hexdigest()
    assert checkpoint.meta["verified"] == entry.sources[0].sha256
    assert checkpoint.meta["model"] == "tcformer_nano"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".tiny.lock", "tiny.safetensors"]

    again = pretrained_path("tiny", cache_dir=tmp_path, base_url=server.url, progress=False)
    assert again == path
    assert len(server.asked) == 1, "the second call must not ask the server"
    pretrained_path("tiny", cache_dir=tmp_path, base_url=server.url, progress=False, force=True)
    assert len(server.asked) == 2


def test_environment_names_the_cache_and_the_mirror(
    tmp_path, monkeypatch, server, entry, published
):
    server.files[entry.sources[0].file_name] = published
    monkeypatch.setenv("TCFORMER_CACHE", str(tmp_path / "new" / "cache"))
    monkeypatch.setenv("TCFORMER_ZOO_URL", server.url)
    assert pretrained_path("tiny", progress=False) == tmp_path / "new/cache/tiny.safetensors"


def test_damaged_cache_is_fetched_anew(tmp_path, server, entry, published):
    server.files[entry.sources[0].file_name] = published
    path = pretrained_path("tiny", cache_dir=tmp_path, base_url=server.url, progress=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    pretrained_path("tiny", cache_dir=tmp_path, base_url=server.url, progress=False)
    assert path.read_bytes() == whole
    assert len(server.asked) == 2


def test_offline(tmp_path, entry):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses connections
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        refused(tmp_path, entry, "no connection", "refused", by_hand=True, base_url=url)
    refused(tmp_path, entry, "example.invalid cannot be found", "offline", by_hand=True)


def test_servers_that_have_no_such_file(tmp_path, server, entry):
    refused(tmp_path, entry, "404", by_hand=True, base_url=server.url)
    refused(tmp_path, entry, "infinite loop", by_hand=True, base_url=f"{server.url}/loop")


@pytest.mark.parametrize("stall", [False, True])
def test_connections_that_break_off_or_fall_silent(
    tmp_path, monkeypatch, server, entry, published, stall
):
    monkeypatch.setattr(zoo, "_TIMEOUT_SECONDS", 0.3)
    server.files[entry.sources[0].file_name] = published[:70_000]
    server.promise_more, server.stall = len(published) - 70_000, stall
    words = "broke off", f"of {len(published)} bytes"
    refused(tmp_path, entry, *words, by_hand=True, base_url=server.url)


def test_wrong_hash(tmp_path, server, entry, published):
    server.files[entry.sources[0].file_name] = published + b"!"
    words = "SHA-256", entry.sources[0].sha256
    refused(tmp_path, entry, *words, by_hand=True, base_url=server.url)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n " + PAGE, "web page"),
        (b"", "empty"),
        (b"hello " * 99, "no checkpoint"),
        (b"PK\x03\x04" + bytes(200), "no checkpoint"),
    ],
)
def test_nonsense_without_a_known_hash(tmp_path, monkeypatch, server, entry, content, words):
    entry = replace(entry, sources=(replace(entry.sources[0], sha256=""),))
    monkeypatch.setitem(RELEASED, "tiny", entry)
    server.files[entry.sources[0].file_name] = content
    refused(tmp_path, entry, words, by_hand=True, base_url=server.url)


def test_another_network_in_the_file(tmp_path, monkeypatch, server, entry, published):
    entry = replace(entry, architecture="tcformer_light")
    monkeypatch.setitem(RELEASED, "tiny", entry)
    server.files[entry.sources[0].file_name] = published
    refused(tmp_path, entry, "tcformer_nano", "not of tcformer_light", base_url=server.url)


def test_address_of_another_kind(tmp_path, entry):
    for url in ("file:///etc", "ftp://127.0.0.1", "nonsense"):
        refused(tmp_path, entry, "must begin with http", base_url=url)
    refused(tmp_path, entry, "cannot download", base_url="http://[::1")


def test_file_put_there_by_hand(tmp_path, entry, published):
    by_hand = tmp_path / entry.sources[0].file_name
    by_hand.write_bytes(published)
    path = pretrained_path("tiny", cache_dir=tmp_path)
    assert read_checkpoint(path).meta["verified"] == entry.sources[0].sha256
    assert by_hand.read_bytes() == published, "the user's own file stays"


@pytest.mark.parametrize(
    ("content", "words"), [(PAGE, "web page"), (b"PK\x03\x04" + bytes(99), "SHA-256")]
)
def test_wrong_file_put_there_by_hand(tmp_path, entry, content, words):
    by_hand = tmp_path / entry.sources[0].file_name
    by_hand.write_bytes(content)
    refused(tmp_path, entry, words, str(by_hand), "replace or remove it")


def test_unknown_hash_is_not_called_verified(tmp_path, monkeypatch, entry, published):
    source = replace(entry.sources[0], sha256="")
    monkeypatch.setitem(RELEASED, "tiny", replace(entry, sources=(source,)))
    (tmp_path / source.file_name).write_bytes(published)
    assert read_checkpoint(pretrained_path("tiny", cache_dir=tmp_path)).meta["verified"] == "no"


def test_several_processes_fetch_once(tmp_path, server, entry, published):
    server.files[entry.sources[0].file_name] = published
    options = {"cache_dir": tmp_path, "base_url": server.url, "progress": False}
    with ThreadPoolExecutor(3) as threads:
        paths = list(threads.map(lambda _: pretrained_path("tiny", **options), range(3)))
    assert paths == [tmp_path / "tiny.safetensors"] * 3
    assert len(server.asked) == 1


def test_the_next_source_is_tried(tmp_path, monkeypatch, server, entry, published):
    first = replace(entry.sources[0], address=f"{server.url}/gone.pth")
    second = replace(entry.sources[0], address=f"{server.url}/here.pth")
    monkeypatch.setitem(RELEASED, "tiny", replace(entry, sources=(first, second)))
    server.files["here.pth"] = published
    assert pretrained_path("tiny", cache_dir=tmp_path, progress=False).is_file()
    assert server.asked == ["/gone.pth", "/here.pth"]


def drive(monkeypatch, entry: Release, download) -> Release:
    source = replace(entry.sources[0], drive_id="1abc", address="https://drive/1abc")
    entry = replace(entry, sources=(source,))
    monkeypatch.setitem(RELEASED, "tiny", entry)
    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    return entry


def test_google_drive_through_gdown(tmp_path, monkeypatch, entry, published):
    def download(*, id, output, quiet):
        assert id == "1abc"
        assert quiet
        Path(output).write_bytes(published)
        return output

    drive(monkeypatch, entry, download)
    assert pretrained_path("tiny", cache_dir=tmp_path, progress=False).is_file()


def test_google_drive_says_no(tmp_path, monkeypatch, entry):
    def fails(**_):
        raise RuntimeError("Failed to retrieve file url:\n\tToo many users\n")

    no = "Google Drive did not give the file"
    for download, words in (
        (fails, (no, "Too many users")),
        (lambda **_: None, (no,)),
        (lambda *, id, output, quiet: Path(output).write_bytes(PAGE), ("web page", "quota")),
    ):
        there = drive(monkeypatch, entry, download)
        refused(tmp_path, there, *words, by_hand=True)
    monkeypatch.setitem(sys.modules, "gdown", None)
    refused(tmp_path, there, "tcformer[weights]", by_hand=True)


def test_pose_weights_keep_their_neck_and_head(tmp_path, monkeypatch, server, entry, weights):
    state = {f"backbone.{key}": value for key, value in weights.items() if key[:4] != "head"}
    state["keypoint_head.final_layer.weight"] = torch.ones(3, 2, 1, 1)
    buffer = io.BytesIO()
    torch.save({"meta": {}, "state_dict": state}, buffer)
    source = replace(entry.sources[0], sha256="")
    monkeypatch.setitem(RELEASED, "tiny", replace(entry, sources=(source,)))
    server.files[source.file_name] = buffer.getvalue()
    path = pretrained_path("tiny", cache_dir=tmp_path, base_url=server.url, progress=False)
    assert read_checkpoint(path).state_dict.keys() == state.keys()
    assert load_checkpoint(tcformer.create_model("tcformer_nano", num_classes=0), path).complete


def test_cache_that_cannot_be_written(tmp_path, entry):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file is in the way"):
        pretrained_path("tiny", cache_dir=tmp_path / "file")


def test_unknown_name(tmp_path):
    with pytest.raises(UserError, match="tcformer_large"):
        pretrained_path("tcformer_larg", cache_dir=tmp_path)


def test_table_is_consistent():
    for name, entry in RELEASED.items():
        assert entry.name == name
        assert entry.architecture in tcformer.models.VARIANTS
        for source in entry.sources:
            assert source.address.startswith("https://")
            assert source.file_name == Path(source.file_name).name
            if source.sha256:  # the community's convention: the digits are in the file's name
                assert f"-{source.sha256}_" in source.file_name
            if source.drive_id:
                assert source.drive_id in source.address
    names = [name for e in RELEASED.values() for name in {s.file_name for s in e.sources}]
    assert len(names) == len(set(names)), "one would be taken for another's in the cache"


def test_pretrained_through_timm(tmp_path, monkeypatch):
    monkeypatch.setenv("TCFORMER_CACHE", str(tmp_path))
    torch.manual_seed(0)
    light = tcformer.create_model("tcformer_light")
    torch.save({"state_dict": light.state_dict()}, tmp_path / "tcformer_light.pth")
    loaded = timm.create_model("tcformer_light", pretrained=True)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, light.state_dict()[key]), key
    adapted = timm.create_model("tcformer_light", pretrained=True, num_classes=10, in_chans=1)
    assert adapted.head.weight.shape == (10, 512)
    assert torch.equal(adapted.norm4.weight, light.norm4.weight)
    stem = light.patch_embed1.proj.weight.sum(1, keepdim=True)
    assert torch.allclose(adapted.patch_embed1.proj.weight, stem, atol=1e-6)
    features = timm.create_model("tcformer_light.in1k", pretrained=True, features_only=True)
    assert torch.equal(features.model.norm4.weight, light.norm4.weight)


def test_pretrained_from_a_file_of_ones_own(tmp_path, monkeypatch, weights):
    monkeypatch.setenv("TCFORMER_CACHE", str(tmp_path))
    monkeypatch.setenv("TCFORMER_ZOO_URL", "http://127.0.0.1:9")
    torch.save({"model": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "own.pth")
    own = {"file": str(tmp_path / "own.pth"), "num_classes": 4}
    model = tcformer.create_model(
        "tcformer_nano", pretrained=True, num_classes=4, pretrained_cfg_overlay=own
    )
    assert torch.equal(model.head.weight, weights["head.weight"])
    with pytest.raises(UserError, match="no released weights called 'tcformer_nano'"):
        tcformer.create_model("tcformer_nano", pretrained=True)
    with pytest.raises(UserError, match="cannot download tcformer_light"):
        tcformer.create_model("tcformer_light", pretrained=True)
    handed_back = timm.get_pretrained_cfg("tcformer_light")
    with pytest.raises(UserError, match="cannot download tcformer_light"):
        tcformer.create_model("tcformer_light", pretrained=True, pretrained_cfg=handed_back)


def test_address_as_source_of_a_checkpoint(tmp_path, monkeypatch, server, published, weights):
    monkeypatch.setenv("TCFORMER_CACHE", str(tmp_path))
    model = tcformer.create_model("tcformer_nano", num_classes=4)
    server.files["some/weights.pth"] = published
    url = f"{server.url}/some/weights.pth"
    assert load_checkpoint(model, url).source == url
    assert torch.equal(model.norm1.weight, weights["norm1.weight"])
    load_checkpoint(model, url)
    assert len(server.asked) == 1
    server.files["bad.pth"] = b"hello"
    with pytest.raises(UserError, match="text file"):
        load_checkpoint(model, f"{server.url}/bad.pth")
    server.files["bad.pth"] = published
    load_checkpoint(model, f"{server.url}/bad.pth")  # the bad copy was not kept
    with pytest.raises(UserError, match="404"):
        load_checkpoint(model, f"{server.url}/absent.pth")
