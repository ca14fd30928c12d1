"""The reference of the site: a page for every package, written from what it makes public.

`pages` is called by docs/make_site.py while the site is built, so that no name can be missing or
left over. `PlainMarkdown` makes our docstrings Markdown, which is what mkdocstrings renders.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

SOURCE = Path(__file__).parents[1] / "src"

WITHOUT_A_PAGE = {
    "cli": "`tcformer VERB --help` explains it",
    "serve": "docs/pictures.md explains `tcformer serve`",
    "inference": "the former name of `predict`",
}
"""Packages without a page, and why."""

FIRST = ("tokens", "ops", "models", "weights", "zoo", "data", "predict", "viz", "export")
"""The order of the pages after that of the package itself; others follow by name."""


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
    inside = [info.name for info in pkgutil.iter_modules(root.__path__)]
    pages = [n for n in inside if not n.startswith("_") and n not in WITHOUT_A_PAGE]
    order = dict.fromkeys([*FIRST, *sorted(pages)])
    return {"tcformer": "tcformer"} | {name: f"tcformer.{name}" for name in order if name in pages}


def public(module: str) -> list[str]:
    """The names that a module makes public: its `__all__`, else what it defines itself."""
    loaded = importlib.import_module(module)
    own = [n for n, value in vars(loaded).items() if getattr(value, "__module__", None) == module]
    return [name for name in getattr(loaded, "__all__", own) if not name.startswith("_")]


@cache
def tree() -> griffe.Module:
    """All of the package as griffe reads it, without running it."""
    loader = griffe.GriffeLoader(search_paths=[str(SOURCE)])
    package = loader.load("tcformer")
    loader.resolve_aliases(implicit=True)
    return package


def home(module: str, name: str) -> str | None:
    """Where a public name is defined, dotted; None for a module, empty where no line defines it."""
    value = getattr(importlib.import_module(module), name)
    if inspect.ismodule(value):
        return None
    places = [f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', '')}"]
    for place in [*places, f"{module}.{name}"]:
        if place.startswith("tcformer."):
            # A function made in a loop, such as a registered model, has no source of its own.
            with contextlib.suppress(KeyError, griffe.AliasResolutionError):
                return tree()[place.removeprefix("tcformer.")].canonical_path
    return ""


def modules_of(package: str) -> list[str]:
    """The package if it makes names public, else its modules that do."""
    module = importlib.import_module(package)
    if not hasattr(module, "__path__") or hasattr(module, "__all__"):
        return [package]
    inside = [i.name for i in pkgutil.iter_modules(module.__path__) if not i.name.startswith("_")]
    return [part for name in inside for part in modules_of(f"{package}.{name}")]


@cache
def pages() -> dict[str, str]:
    """File name below reference/ -> Markdown, the text for mkdocstrings."""
    names = {
        page: {m: {name: home(m, name) for name in public(m)} for m in modules_of(package)}
        for page, package in packages().items()
    }
    # What the package itself offers is defined below; it is explained there and linked here.
    owners: dict[str, str] = {}
    for page in [page for page in names if page != "tcformer"]:
        for target in {target for found in names[page].values() for target in found.values()}:
            owners.setdefault(target or "", page)
    return {f"{page}.md": _page(page, names[page], owners) for page in names}


def _page(page: str, modules: dict[str, dict[str, str | None]], owners: dict[str, str]) -> str:
    package = packages()[page]
    lines = [f"# {package}", "", introduction(package), ""]
    written: set[str] = set()
    for module, found in modules.items():
        if module != package:
            lines += [f"## {module}", "", introduction(module), ""]
        level = 2 if module == package else 3
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
            elif target not in written:
                written.add(target)
                given = (f'heading: "{name}"', f'toc_label: "{name}"', f"heading_level: {level}")
                entries += [f"::: {target}", "    options:", *(f"      {g}" for g in given), ""]
        if elsewhere:
            lines += ["Explained on other pages:", "", *elsewhere, ""]
        lines += entries
    return "\n".join(lines)


def introduction(module: str) -> str:
    """The docstring of a module."""
    return markdown(inspect.getdoc(importlib.import_module(module)) or "")


def index() -> str:
    """The list of pages, for reference.md."""
    lines = []
    for page, package in packages().items():
        first = introduction(package).split("\n\n")[0].replace("\n", " ")
        lines.append(f"* [`{package}`](reference/{page}.md): {first}")
    return "\n".join(lines)
