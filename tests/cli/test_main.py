"""The dispatcher: fast, helpful, and quiet about tracebacks."""

import importlib
import os
import re
import subprocess
import sys
import time
from types import ModuleType

import pytest

from tcformer import __version__, cli
from tcformer.cli.parser import Parser
from tcformer.errors import UserError

COMMAND = [sys.executable, "-m", "tcformer"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, timeout=120)


def verb_module(monkeypatch: pytest.MonkeyPatch, main) -> None:
    """Put `main` in the place of the verb `flops`."""
    module = ModuleType("tcformer.cli.flops")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tcformer.cli.flops", module)


def test_help_is_fast_and_lists_every_verb():
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy with something else
        start = time.perf_counter()
        result = run("--help")
        seconds.append(time.perf_counter() - start)
    assert result.returncode == 0
    assert min(seconds) < 0.5
    for verb, line in cli.VERBS.items():
        assert f"{verb} " in result.stdout
        assert line in result.stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["flops", "--help"], ["doctor", "-h"]])
def test_help_imports_no_torch(args):
    code = (
        f"import sys, tcformer.cli as c; assert c.main({args}) == 0; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False", result.stderr


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_module_with_the_same_line(verb):
    module = importlib.import_module(f"tcformer.cli.{verb.replace('-', '_')}")
    assert cli.VERBS[verb] == module.HELP
    assert callable(module.main)


def help_of(capsys, verb: str) -> str:
    """The help of a verb in one line, without the frames around it."""
    assert cli.main([verb, "--help"]) == 0
    return re.sub(r"[\s│╭╮╰╯─]+", " ", capsys.readouterr().out)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_shows_no_empty_default(verb, capsys):
    text = help_of(capsys, verb)
    assert re.findall(r"default:? *(?:None|\(\)|\[\]|\{\}|''|\"\")? *\)", text) == []
    assert re.findall(r"\(default[^()]*\) \(default", text) == []  # said once


def test_help_still_shows_the_others(capsys):
    assert "(default: 224)" in help_of(capsys, "train")
    assert "(default: 16)" in help_of(capsys, "predict")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tcformer {__version__}\n"


def test_no_verb_shows_the_usage(capsys):
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: tcformer VERB")


@pytest.mark.parametrize(
    ("word", "meant"), [("trian", "train"), ("eval", "evaluate"), ("--vresion", "--version")]
)
def test_an_unknown_verb_names_the_nearest(word, meant, capsys):
    assert cli.main([word]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"`tcformer {meant}`" in error


def test_an_unknown_verb_that_looks_like_nothing(capsys):
    assert cli.main(["xyzzy"]) == 2
    assert "`tcformer --help`" in capsys.readouterr().err


def test_a_user_error_is_one_sentence(monkeypatch, capsys):
    def fail(argv):
        raise UserError("the file is upside down; turn it.")

    verb_module(monkeypatch, fail)
    assert cli.main(["flops"]) == 2
    assert capsys.readouterr().err == "error: the file is upside down; turn it.\n"


def test_any_other_error_keeps_its_traceback(monkeypatch):
    def fail(argv):
        raise ValueError("a defect of ours")

    verb_module(monkeypatch, fail)
    with pytest.raises(ValueError, match="a defect of ours"):
        cli.main(["flops"])


def test_a_broken_pipe_that_is_not_stdout_is_an_error(monkeypatch):
    def fail(argv):
        raise BrokenPipeError("a worker died")

    verb_module(monkeypatch, fail)
    with pytest.raises(BrokenPipeError):
        cli.main(["flops"])


def test_the_status_of_the_verb_is_the_status_of_the_command(monkeypatch):
    verb_module(monkeypatch, lambda argv: len(argv))
    assert cli.main(["flops", "a", "b", "c"]) == 3


@pytest.mark.parametrize(("code", "status"), [(None, 0), (5, 5), ("a sentence", 1)])
def test_leaving_through_system_exit(code, status, monkeypatch, capsys):
    def leave(argv):
        raise SystemExit(code)

    verb_module(monkeypatch, leave)
    assert cli.main(["flops"]) == status
    assert capsys.readouterr().err == ("a sentence\n" if status == 1 else "")


def test_the_keyboard_interrupts_without_a_traceback(monkeypatch, capsys):
    def interrupt(argv):
        raise KeyboardInterrupt

    verb_module(monkeypatch, interrupt)
    assert cli.main(["flops"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_reading(unbuffered):
    code = (
        "import sys, types; from tcformer import cli; m = types.ModuleType('tcformer.cli.flops')\n"
        "m.main = lambda argv: print('x' * 100, end='') or 0; sys.modules[m.__name__] = m\n"
        "sys.stdin.read(); sys.exit(cli.main(['flops']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    process.stdout.close()  # the reader is gone before anything is written
    process.stdin.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert error == b""


def test_parser_names_the_nearest_option():
    parser = Parser("flops")
    parser.add_argument("--shape", type=int, help="pixels")
    with pytest.raises(UserError, match=r"unknown argument '--shpe', did you mean --shape;"):
        parser.parse_args(["--shpe=3"])
    with pytest.raises(UserError, match=r"unknown argument 'stray';"):
        parser.parse_args(["stray"])
    with pytest.raises(UserError, match=r"tcformer flops: argument --shape: invalid int value"):
        parser.parse_args(["--shape", "three"])
    with pytest.raises(UserError, match="--shape"):  # abbreviations are not options
        parser.parse_args(["--sha", "3"])


def test_a_missing_dependency_is_a_sentence(monkeypatch, capsys):
    def broken(name):
        raise ModuleNotFoundError("No module named 'rich'", name="rich")

    monkeypatch.setattr("tcformer.cli.importlib.import_module", broken)
    assert cli.main(["flops"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the package rich is not installed for ")
    assert "make demo" in said


def test_a_missing_module_of_our_own_is_a_bug(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'tcformer.x'", name="tcformer.x")

    monkeypatch.setattr("tcformer.cli.importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["flops"])


def test_tensors_get_large_pages_unless_the_caller_decided(monkeypatch):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    cli.main(["flops", "--help"])
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    cli.main(["flops", "--help"])
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
