"""Run docs/tour.ipynb and turn it into a page: text, code, and what the code printed and drew."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from pathlib import Path
from typing import Any

SOURCE = str(Path(__file__).parents[1] / "src")

IMAGES = {"image/png": "png", "image/gif": "gif", "image/webp": "webp", "image/svg+xml": "svg"}
"""Kinds of pictures, the first that an output has is taken."""


def executed(path: Path, *, timeout: int = 300) -> Any:
    """The notebook with its outputs; an error in a cell is raised with the cell's traceback."""
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # Sockets that are files: nothing listens on a port.
        sockets = {"transport": "ipc", "ip": str(Path(folder) / "kernel")}
        return NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=timeout,
            config=Config({"ConnectionFileMixin": sockets}),
            resources={"metadata": {"path": str(path.parent)}},
        ).execute(env={**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, *inherited])})


def pages(path: Path) -> dict[str, str | bytes]:
    """File name -> content: the page `tour.md` and its pictures below images/."""
    files: dict[str, str | bytes] = {}
    parts = []
    for number, cell in enumerate(executed(path).cells, start=1):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            parts.append(_shown(output, f"images/tour-{number}-{place}", files))
    return {f"{path.stem}.md": "\n\n".join(filter(None, parts)) + "\n", **files}


def _shown(output: Any, name: str, files: dict[str, str | bytes]) -> str:
    """One output as Markdown; a picture's bytes go into ``files``."""
    if output.output_type == "stream":
        return _block(output.text) if output.name == "stdout" else ""
    if output.output_type not in ("display_data", "execute_result"):
        return ""
    data = output.data
    for kind, ending in IMAGES.items():
        if kind in data:
            raw = data[kind]
            content = raw.encode() if ending == "svg" else base64.b64decode(raw)
            files[f"{name}.{ending}"] = content
            return f"![{_alternative(data)}]({name}.{ending})"
    if "text/html" in data:
        # A blank line would end the block of HTML.
        return '<div class="tour-output">' + re.sub(r"\n\s*\n", "\n", data["text/html"]) + "</div>"
    return _block(data.get("text/plain", ""))


def _alternative(data: Any) -> str:
    text = data.get("text/plain", "a picture")
    return "a picture drawn by the cell above" if text.startswith("<") else text


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
