"""The reference of the site: a page for every package, written from what it makes public.

`pages` is called by docs/make_site.py while the site is built, so that no name can be missing or
left over. `PlainMarkdown` makes our docstrings Markdown, which is what mkdocstrings renders.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe

SOURCE = Path(__file__).parents[1] / "src"

WITHOUT_A_PAGE = {
    "cli": "`tcformer VERB --help` explains it",
    "serve": "docs/pictures.md explains `tcformer serve`",
    "inference": "the former name of `predict`",
}
"""Packages without a page, and why."""

FIRST = (
    "tcformer",
    "tokens",
    "ops",
    "models",
    "weights",
    "zoo",
    "data",
    "predict",
    "viz",
    "export",
)
"""The order of the pages; others follow by name."""


class PlainMarkdown(griffe.Extension):
    """Turn the roles and double colons of our docstrings into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object it has read."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """A docstring without `:class:` and the like, and with one colon before a block of code."""
    text = re.sub(r":(?:class|func|meth|mod|data|attr|ref):`~?([\w.]+)`", r"`\1`", text)
    return re.sub(r"::(\n\s*\n[ \t]+\S)", r":\1", text)


@cache
def packages() -> dict[str, str]:
    """Page name -> dotted name: the package itself, its modules and its sub-packages."""
    root = importlib.import_module("tcformer")
    found = {"tcformer": "tcformer"}
    for info in pkgutil.iter_modules(root.__path__):
        if not info.name.startswith("_") and info.name not in WITHOUT_A_PAGE:
            found[info.name] = f"tcformer.{info.name}"
    order = {name: place for place, name in enumerate(FIRST)}
    return dict(sorted(found.items(), key=lambda pair: (order.get(pair[0], len(order)), pair[0])))


def public(module: ModuleType) -> list[str]:
    """The names that a module makes public: its `__all__`, else what it defines itself."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


@cache
def tree() -> griffe.Module:
    """All of the package as griffe reads it, without running it."""
    loader = griffe.GriffeLoader(search_paths=[str(SOURCE)])
    package = loader.load("tcformer")
    loader.resolve_aliases(implicit=True)
    return package


def home(module: str, name: str) -> str | None:
    """Where a public name is defined, dotted; None for a module."""
    value = getattr(importlib.import_module(module), name)
    if inspect.ismodule(value):
        return None
    defined = getattr(value, "__module__", None)
    if isinstance(defined, str) and defined.startswith("tcformer") and hasattr(value, "__name__"):
        place = tree()[defined.removeprefix("tcformer.")] if "." in defined else tree()
        # A function that is made in a loop, such as a registered model, has no source of its own.
        return f"{defined}.{value.__name__}" if value.__name__ in place.members else ""
    return _constant(module, name)


def _constant(module: str, name: str) -> str:
    """Where a constant is defined: in the module or below it; empty if not by a line of its own."""
    inside = tree()[module.removeprefix("tcformer.")] if "." in module else tree()
    for place in _modules(inside):
        member = place.members.get(name)
        if member is not None and not member.is_alias:
            return member.path
        if member is not None and place is inside:
            return member.final_target.path
    return ""


def _modules(top: griffe.Module) -> Iterator[griffe.Module]:
    yield top
    for below in top.members.values():
        if isinstance(below, griffe.Module) and not below.is_alias:
            yield from _modules(below)


def modules_of(package: str) -> list[str]:
    """The package if it makes names public, else its modules that do."""
    module = importlib.import_module(package)
    if not hasattr(module, "__path__") or hasattr(module, "__all__"):
        return [package]
    inside = [info.name for info in pkgutil.iter_modules(module.__path__)]
    below = [part for name in inside for part in modules_of(f"{package}.{name}")]
    return [name for name in below if not name.rpartition(".")[2].startswith("_")]


@cache
def names() -> dict[str, dict[str, dict[str, str | None]]]:
    """Page -> module -> public name -> where it is defined."""
    return {
        page: {
            module: {name: home(module, name) for name in public(importlib.import_module(module))}
            for module in modules_of(package)
        }
        for page, package in packages().items()
    }


def pages() -> dict[str, str]:
    """File name below reference/ -> Markdown, the text for mkdocstrings."""
    owners: dict[str, str] = {}
    # What the package itself offers is defined below; it is explained there and linked here.
    for page, modules in names().items():
        if page != "tcformer":
            for found in modules.values():
                for target in found.values():
                    if target:
                        owners.setdefault(target, page)
    return {f"{page}.md": _page(page, owners) for page in names()}


def _page(page: str, owners: dict[str, str]) -> str:
    package = packages()[page]
    lines = [f"# {package}", "", _introduction(package), ""]
    written: set[str] = set()
    for module, found in names()[page].items():
        level = 2
        if module != package:
            lines += [f"## {module}", "", _introduction(module), ""]
            level = 3
        entries, elsewhere = [], []
        for name, target in found.items():
            if target is None:
                elsewhere.append(f"* [`{module}.{name}`]({name}.md)")
            elif not target:
                value = getattr(importlib.import_module(module), name)
                text = markdown(inspect.getdoc(value)) if callable(value) else f"`{value!r}`"
                entries += [f"{'#' * level} {name}", "", text, ""]
            elif owners.get(target, page) != page:
                elsewhere.append(f"* [`{module}.{name}`][{target}]")
            elif target in written:
                continue
            else:
                written.add(target)
                entries += _entry(target, name, level)
        if elsewhere:
            lines += ["Explained on other pages:", "", *elsewhere, ""]
        lines += entries
    return "\n".join(lines)


def _entry(target: str, name: str, level: int) -> list[str]:
    options = [f'heading: "{name}"', f'toc_label: "{name}"', f"heading_level: {level}"]
    return [f"::: {target}", "    options:", *(f"      {option}" for option in options), ""]


def _introduction(module: str) -> str:
    text = inspect.getdoc(importlib.import_module(module)) or ""
    return markdown(text)


def index() -> str:
    """The list of pages, for reference.md."""
    lines = []
    for page, package in packages().items():
        first = _introduction(package).split("\n\n")[0].replace("\n", " ")
        lines.append(f"* [`{package}`](reference/{page}.md): {first}")
    return "\n".join(lines)
