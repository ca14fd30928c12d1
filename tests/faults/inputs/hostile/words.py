"""What people type and the config files they name."""

from __future__ import annotations

import functools
import json
import os
import random
from pathlib import Path

from hostile.kinds import TRACE, Kind, mutated, silent, strange_name
from tcformer.cli import VERBS, main
from tcformer.errors import UserError
from tcformer.training.config import TrainConfig
from tcformer.training.options import build, load_config, parse

FIELDS = list(TrainConfig.kinds())
ODD = (
    "", " ", "nan", "inf", "-inf", "-1", "0", "1e400", "9" * 30, "9" * 5000, "-0.0", "1.5", "abc",
    "None", "True", "[]", "{}", "()", "a b", "a\nb", "\ud800", os.fsdecode(b"\xff"), "ü", "--", "-",
    "--lr", "/", ".", "/dev/null", "/dev/zero", "/nowhere/x", "x" * 5000, "0x10", "1_0", "1e9",
    "%s", "$HOME", "~nobody/x", "http://", "a=b", "=", "cuda:99", "\x1b[31m", "4x4", "0x0", "auto",
)  # fmt: skip
CONFIGS = (
    'cfg = dict(model="tcformer_nano", data_set="digits", lr=5e-4 * 2, aa=None, mixup=0.0)\n',
    'base = dict(batch_size=4)\ncfg = dict(base, opt_betas=(0.9, 0.999), hflip=0.5)\ncfg["seed"] = 3\n',
)


def _program(rng: random.Random) -> str:
    """A line that would leave a trace if it were run."""
    return rng.choice(
        (
            "import os; os.mkdir({!r})", "open({!r}, 'w')", "__import__('os').mkdir({!r})",
            "cfg = dict(lr=open({!r}, 'w'))", "eval(\"open({!r}, 'w')\")", "[open(p, 'w') for p in [{!r}]]",
            "class A(object): x = open({!r}, 'w')", "cfg = dict(a=(lambda: open({!r}, 'w'))())",
            "def f(x=open({!r}, 'w')): pass", "assert open({!r}, 'w')", "cfg[open({!r}, 'w')] = 1",
            "cfg = dict(a=f'{{open({!r})}}')", "x: open({!r}, 'w') = 1", "dict = open; dict({!r}, 'w')",
        )
    ).format(TRACE) + "\n"  # fmt: skip


def _make_config(rng: random.Random, folder: Path) -> Path:
    how = rng.random()
    text = rng.choice(CONFIGS)
    path = folder / "recipe.py"
    if how < 0.2:
        lines = text.splitlines(keepends=True)
        lines.insert(rng.randrange(len(lines) + 1), _program(rng))
        data = "".join(lines).encode()
    elif how < 0.45:
        data = mutated(rng, text.encode())
    elif how < 0.7:
        value = rng.choice(
            ("9**9**9", "'a'*10**12", "[[]]*10**9", "1/0", "nan", "float('nan')", "float('inf')", "10**99",
             "-1", "0", "''", "None", "True", "{}", "dict()", "(1,)", "'x'*9999", "x", "cfg", "..." , "1j",
             "b'a'", "'\\ud800'", "(" * 300 + ")" * 300, "1" + "+1" * 3000, "{**{}}", "[*[1]]", "not 1",
             "~1", "1<2", "1 if 1 else 2", "-" * 3000 + "1", "'%9999999999d' % 1", "int('9' * 9999)")
        )  # fmt: skip
        name = rng.choice((*FIELDS, "bath_size", "x", "detector"))
        data = rng.choice((f"cfg = dict({name}={value})", f"{name} = {value}\ncfg = dict({name}={name})",
                           f"cfg = {{'{name}': {value}}}", f"cfg = {{}}\ncfg['{name}'] = {value}")).encode()  # fmt: skip
    else:
        path = folder / "recipe.json"
        value = {rng.choice(FIELDS): rng.choice((*ODD, None, True, 1, 1.5, [], [1, 2], {}, -1, float("nan"),
                 10**40, [float("inf")])) for _ in range(rng.randint(1, 3))}  # fmt: skip
        data = json.dumps(value).encode()
        if rng.random() < 0.3:
            data = mutated(rng, data)
    path.write_bytes(data)
    return path


def _read_config(path: Path) -> None:
    os.chdir(path.parent)
    try:
        build(load_config(path), where=str(path))
        with silent():
            parse([str(path)], prog="tcformer train", description="")
    finally:
        os.chdir("/")


def _option(rng: random.Random, name: str) -> list[str]:
    spelled = "--" + (name if rng.random() < 0.2 else name.replace("_", "-"))
    how = rng.random()
    if how < 0.1:
        return [spelled]
    if how < 0.2:
        return [f"{spelled}={rng.choice(ODD)}"]
    return [spelled, *(rng.choice(ODD) for _ in range(rng.choice((1, 1, 1, 2, 3))))]


def _make_words(rng: random.Random, folder: Path) -> list[str]:
    """The words after `tcformer train` or `evaluate`."""
    words: list[str] = []
    if rng.random() < 0.3:
        (folder / "c.py").write_text(CONFIGS[0])
        words.append(rng.choice((str(folder / "c.py"), str(folder), "nowhere.py", *ODD)))
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(FIELDS)
        if rng.random() < 0.05:
            name = rng.choice(
                (name[:-1] or "x", name + "s", strange_name(rng), "help-me", "no-" + name)
            )
        words += _option(rng, name)
    return words


def _read_words(words: list[str]) -> None:
    try:
        with silent():
            parse(words, prog="tcformer train", description="")
    except SystemExit as stop:
        if stop.code:  # --help is all that may leave this way
            raise AssertionError(f"{words}: left with {stop.code}") from None


# Verbs that end by themselves soon, whatever stands behind them; the others need one that is wrong.
_QUICK = ("show", "convert", "flops", "predict")


@functools.cache
def _options_of(verb: str) -> tuple[str, ...]:
    """The options that the verb's own help tells."""
    with silent() as text:
        main([verb, "--help"])
    return tuple(
        sorted({w.strip(",[]") for w in text.getvalue().split() if w.startswith(("--", "[--"))})
    )


def _make_verb(rng: random.Random, folder: Path) -> tuple[Path, list[str]]:
    verb = rng.choice(sorted(VERBS))
    if rng.random() < 0.05:
        verb = rng.choice((verb + "x", verb[:-1], *ODD))
        return folder, [verb, *(rng.choice(ODD) for _ in range(rng.randrange(3)))]
    known = [name for name in _options_of(verb) if name not in ("--help",)]
    words = []
    for _ in range(rng.randint(1, 4)):
        how = rng.random()
        if how < 0.3 or not known:
            words.append(
                rng.choice(
                    (*ODD, str(folder), str(folder / "nowhere.png"), "tcformer_nano", "x.pth")
                )
            )
        else:
            words += [rng.choice(known), rng.choice(ODD)]
    if verb not in _QUICK or rng.random() < 0.3:
        words.insert(
            rng.randrange(len(words) + 1), rng.choice(("--no-such-option", "--zzz=1", "--\ud800"))
        )
    return folder, [verb, *words]


def _read_verb(given: tuple[Path, list[str]]) -> None:
    folder, words = given
    os.chdir(folder)
    try:
        with silent() as said:
            status = main(words)
        text = said.getvalue()
    finally:
        os.chdir("/")
    if "Traceback" in text:
        raise AssertionError(f"{words}: a traceback")
    if status == 2:
        told = [line for line in text.splitlines() if line.startswith("error: ")]
        usage = not words or words[0] in ("", "-h")
        assert usage or len(told) == 1, (
            f"{words}: {text[-300:]!r}: {len(told)} sentences, {str(words)[:100]}"
        )
        raise UserError(told[0] if told else "usage")
    assert status in (0, 1), f"{words}: status {status}"


KINDS = [
    Kind("config files", _make_config, _read_config, share=20),
    Kind("command lines of train", _make_words, _read_words, share=20),
    Kind("command lines of every verb", _make_verb, _read_verb, share=4),
]
