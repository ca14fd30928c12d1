"""The one writer and the one reader of foreign files."""

import errno
import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tcformer.errors import UserError
from tcformer.files import (
    atomic_write,
    cache_folder,
    check_readable,
    check_writable,
    clear_leftovers,
    make_folder,
    making_way,
    parse_json,
    read_text,
    replacing,
    set_aside,
    staging,
)


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_replaces_only_what_is_wholly_written(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def write(stream):
        stream.write(b"new")
        stream.flush()
        assert target.read_bytes() == b"old"

    atomic_write(str(target), write)
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_torch_numpy_and_text_can_write(tmp_path):
    atomic_write(tmp_path / "a.pth", lambda stream: torch.save({"w": torch.ones(3)}, stream))
    assert torch.equal(torch.load(tmp_path / "a.pth")["w"], torch.ones(3))
    atomic_write(tmp_path / "a.npz", lambda stream: np.savez(stream, w=np.ones(3)))
    assert np.load(tmp_path / "a.npz")["w"].sum() == 3

    def text(stream):
        # A TextIOWrapper closes the stream when it is collected; that must not lose anything.
        io.TextIOWrapper(stream, encoding="utf-8").write("héllo")

    atomic_write(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text("utf-8") == "héllo"


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), UserError("mine")])
def test_failure_leaves_the_old_file(tmp_path, failure):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def write(stream):
        stream.write(b"half")
        raise failure

    with pytest.raises(type(failure)) as caught:
        atomic_write(target, write)
    assert caught.value is failure
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_forced_to_disk_before_the_name_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), real_sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("name"), real_replace(a, b)))
    atomic_write(tmp_path / "a", lambda stream: stream.write(b"x"))
    assert events == ["fsync", "name", "fsync"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no/a", "no does not exist"),
        ("file/a", "is not a folder"),
        (".", "it is a folder"),
        ("pipe", "not an ordinary file"),
    ],
)
def test_places_where_no_file_can_be(tmp_path, path, words):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=words) as caught:
        atomic_write(tmp_path / path, lambda stream: stream.write(b"x"))
    one_sentence(caught)
    assert names(tmp_path) == ["file", "pipe"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "no permission"), (errno.EIO, "rror")],
)
def test_system_errors_become_sentences(tmp_path, monkeypatch, code, words):
    (tmp_path / "a").write_bytes(b"old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=words) as caught:
        atomic_write(tmp_path / "a", lambda stream: stream.write(b"x"))
    assert str(tmp_path / "a") in one_sentence(caught)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


FULL = """
import resource, sys, torch
from tcformer.errors import UserError
from tcformer.files import atomic_write
torch.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    atomic_write(sys.argv[1], lambda stream: torch.save([torch.ones(9000)
                 for _ in range(40)], stream))
except UserError as error:
    print(error)
    sys.exit(2)
"""


def test_torch_save_on_a_disk_that_is_really_full(tmp_path):
    target = tmp_path / "last.pth"
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(target)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stdout
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["last.pth"]


def test_symbolic_link_is_followed_and_permissions_are_kept(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    os.chmod(tmp_path / "real", 0o640)
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", lambda stream: stream.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", lambda stream: stream.write(b"x"))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff" * 200), "é" * 127])
def test_names_that_are_no_text_or_as_long_as_they_can_be(tmp_path, name):
    atomic_write(tmp_path / name, lambda stream: stream.write(b"x"))
    assert names(tmp_path) == [name]


def test_a_copy_takes_the_name_only_in_peace(tmp_path):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    os.chmod(target, 0o640)

    def fail():
        with replacing(target) as copy:
            copy.write_bytes(b"half")
            raise UserError(f"no space in {copy} at all")

    with pytest.raises(UserError, match=f"no space in {target} ") as caught:
        fail()
    one_sentence(caught)
    assert target.read_bytes() == b"old"
    with pytest.raises(UserError, match=f"cannot write {target}"), replacing(target):
        pass  # nothing was written
    with replacing(target) as copy:
        copy.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["a"]


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    contents = [bytes([i]) * 300_000 for i in range(4)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda c: atomic_write(tmp_path / "a", lambda s: s.write(c)), contents))
    assert (tmp_path / "a").read_bytes() in contents
    assert names(tmp_path) == ["a"]


WRITER = """
import os, signal, sys, time
from tcformer.files import atomic_write
def write(stream):
    stream.write(b"half"); stream.flush(); print("writing", flush=True)
    time.sleep(600)
atomic_write(sys.argv[1], write)
"""


def test_a_leftover_is_what_nobody_writes_whatever_its_process_number_says(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "best.pth")], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"writing\n"
        (path,) = tmp_path.iterdir()
        # As another container would see it: a number that nobody has there.
        path = path.rename(tmp_path / path.name.replace(str(process.pid), "999999999"))
        clear_leftovers(tmp_path, "best.pth".__eq__)
        assert path.exists()
    finally:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as after a crash
    clear_leftovers(tmp_path, "log.txt".__eq__)
    assert path.exists()
    clear_leftovers(tmp_path, "best.pth".__eq__)
    assert names(tmp_path) == []
    process.communicate()


@pytest.mark.parametrize(("locks", "machine"), [(True, "-00000000"), (False, "")])
def test_where_locks_say_nothing_a_leftover_stays_for_a_day(tmp_path, monkeypatch, locks, machine):
    from tcformer import files

    if not locks:
        monkeypatch.setattr(files, "fcntl", None)
    path = tmp_path / f".best.pth.1-0123abcd{machine}.tmp"
    for age, stays in ((3600, True), (90_000, False)):
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
        clear_leftovers(tmp_path, bool)
        assert path.exists() == stays


def test_a_file_that_was_taken_for_a_leftover_at_once_is_begun_anew(tmp_path, monkeypatch):
    from tcformer import files

    real, answers = files._lock, [False, True]
    monkeypatch.setattr(files, "_lock", lambda descriptor: answers.pop(0) and real(descriptor))
    atomic_write(tmp_path / "a", lambda stream: stream.write(b"x"))
    assert (tmp_path / "a").read_bytes() == b"x"
    assert answers == []


def test_check_writable_refuses_before_anything_is_there(tmp_path):
    assert check_writable(tmp_path / "new" / "a") == tmp_path / "new" / "a"
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("x")
    for bad, words in (
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "a", "is not a folder"),
        ("/dev/null", "not an ordinary file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            check_writable(bad)
        one_sentence(caught)
    os.link(tmp_path / "file", tmp_path / "other name")
    with pytest.raises(UserError, match="made from"):
        check_writable(tmp_path / "other name", made_from=[None, "no such", tmp_path / "file"])


def test_several_files_take_their_names_together(tmp_path):
    for name in ("a", "config", "old"):
        (tmp_path / name).write_text("earlier")
    os.chmod(tmp_path / "a", 0o640)
    with staging(tmp_path, last="config", stale=["old", "a"]) as scratch:
        for name in ("a", "config", "sub/b"):
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_text("new")
        assert (tmp_path / "a").read_text() == (tmp_path / "config").read_text() == "earlier"
    assert names(tmp_path) == ["a", "config", "sub"]
    assert {(tmp_path / n).read_text() for n in ("a", "config", "sub/b")} == {"new"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def stage(folder: Path, failure: BaseException | None = None, **files: str) -> None:
    with staging(folder, last="a") as scratch:
        for name, text in files.items():
            (scratch / name).write_text(text)
        if failure is not None:
            raise failure


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), UserError("mine")])
def test_a_failure_in_a_staging_folder_leaves_all_as_it_was(tmp_path, failure):
    (tmp_path / "a").write_text("earlier")
    for folder in (tmp_path, tmp_path / "new" / "deep"):
        with pytest.raises(type(failure)):
            stage(folder, failure, a="half")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "earlier"


def test_a_name_that_is_taken_by_a_folder_is_seen_before_anything_is_replaced(tmp_path):
    (tmp_path / "a").write_text("earlier")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="it is a folder") as caught:
        stage(tmp_path, a="new", b="new")
    assert ".tmp" not in one_sentence(caught)
    assert (tmp_path / "a").read_text() == "earlier"


def test_a_staging_folder_of_a_killed_process_goes_with_the_next(tmp_path):
    left = tmp_path / ".staging.999999999-0123abcd.tmp"
    left.mkdir()
    (left / "a").write_text("half")
    with staging(tmp_path) as scratch:
        (scratch / "a").write_text("new")
    assert names(tmp_path) == ["a"]


def test_set_aside_numbers_the_folders(tmp_path):
    assert set_aside(tmp_path, []) is None
    for number in (1, 2):
        (tmp_path / "log.txt").write_text(f"run {number}")
        assert set_aside(tmp_path, ["log.txt"]) == tmp_path / f"earlier-{number}"
    assert (tmp_path / "earlier-1" / "log.txt").read_text() == "run 1"
    assert names(tmp_path) == ["earlier-1", "earlier-2"]


def test_making_way_gives_back_what_was_there_when_it_fails(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.pth", "sub/b.png", "notes"):
        (tmp_path / name).write_text("earlier")

    def write(*, fail: bool) -> None:
        with making_way(tmp_path, ["*.pth", "sub/*.png"]) as aside:
            assert (aside / "a.pth").read_text() == "earlier"
            assert not (tmp_path / "a.pth").exists()
            (tmp_path / "a.pth").write_text("new")
            (tmp_path / "c.pth").write_text("new")
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fail=True)
    assert names(tmp_path) == ["a.pth", "notes", "sub"]
    assert (tmp_path / "a.pth").read_text() == (tmp_path / "sub/b.png").read_text() == "earlier"
    write(fail=False)
    assert names(tmp_path) == ["a.pth", "c.pth", "notes", "sub"]
    assert (tmp_path / "a.pth").read_text() == "new"
    assert not (tmp_path / "sub/b.png").exists()


def test_make_folder(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    for path in ("file", "file/b"):
        with pytest.raises(UserError, match="a file is in the way"):
            make_folder(tmp_path / path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_text(tmp_path, encoding):
    (tmp_path / "a").write_bytes('{"né": 1}\r\n'.encode(encoding))
    assert read_text(tmp_path / "a") == '{"né": 1}\r\n'
    assert parse_json(read_text(tmp_path / "a")) == {"né": 1}
    assert parse_json((tmp_path / "a").read_bytes()) == {"né": 1}
    assert parse_json('\ufeff{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("path", "words"),
    [("a", "no such file"), (".", "it is a folder"), ("a\0b", "null"), ("empty", "empty")],
)
def test_check_readable(tmp_path, path, words):
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match=f"cannot read .*{words}"):
        check_readable(f"{tmp_path}/{path}")


def test_importing_does_not_import_torch():
    code = "import sys, tcformer.files; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TCFORMER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tcformer"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG standard
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "tcformer"
    monkeypatch.setenv("TCFORMER_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "home" / "weights"
