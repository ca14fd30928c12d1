"""What mkdocs adds to the pages of docs/ while it builds the site: hooks, named in mkdocs.yml.

* the pictures, drawn anew by our own code,
* the tour, run as a notebook,
* the reference, written from what each package makes public,
* the options, as `tcformer train --help` prints them,
* README.md (the first page), CONTRIBUTING.md and CHANGELOG.md of the top folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Found because mkdocs looks beside a hook while it loads it.
import make_pictures
import make_reference
import make_tour
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent

REFERENCE_MARK = "<!-- reference -->"


def on_config(config: Any) -> Any:
    """Put the pages of the reference below their heading in the navigation."""
    below = [f"reference/{page}" for page in make_reference.pages()]
    for entry in config["nav"]:
        if "Reference" in entry and isinstance(entry["Reference"], str):
            entry["Reference"] = [entry["Reference"], *below]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated files; one that stands in docs/ as well is replaced."""
    for name, content in {**_pages(), **_pictures(), **_tour()}.items():
        old = files.get_file_from_path(name)
        if old is not None:
            files.remove(old)
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the list of the reference's pages, and let links to the notebook lead to its page."""
    markdown = markdown.replace("](tour.ipynb)", "](tour.md)")
    if REFERENCE_MARK in markdown:
        markdown = markdown.replace(REFERENCE_MARK, make_reference.index())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Let every picture lead to itself, at its full size."""
    return re.sub(r'(?<!">)(<img [^>]*?src="([^"]+)"[^>]*>)', r'<a href="\2">\1</a>', html)


def _pages() -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {
        f"reference/{name}": text for name, text in make_reference.pages().items()
    }
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = re.sub(r"\]\(docs/", "](", (HERE.parent / name).read_text())
        text = re.sub(r"\]\(([A-Z]+\.md)", lambda m: f"]({m[1].lower()}", text)
        found[name.lower().replace("readme", "index")] = text
    found["options.md"] = f"# Options\n\n```text\n{_options()}```\n"
    return found


def _options() -> str:
    words = [sys.executable, "-m", "tcformer", "train", "--help"]
    settings = {**os.environ, "COLUMNS": "76", "NO_COLOR": "1"}
    return subprocess.run(words, env=settings, capture_output=True, text=True, check=True).stdout


def _pictures() -> dict[str, str | bytes]:
    """Every picture that our scripts draw: the committed ones are for readers without the site."""
    with tempfile.TemporaryDirectory() as folder:
        make_pictures.draw(Path(folder))
        return {f"images/{path.name}": path.read_bytes() for path in Path(folder).iterdir()}


def _tour() -> dict[str, str | bytes]:
    return make_tour.pages(HERE / "tour.ipynb")
