"""Write the pages that are generated from the code: `make docs`.

docs/options.md comes from the fields of `TrainConfig` and the strings below them, so that it cannot
differ from what the command accepts; a test compares the two.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

from tcformer.training.config import TrainConfig, option

HERE = Path(__file__).parent

HEAD = """\
# Options of `tcformer train` and `tcformer evaluate`

Generated from `training/config.py` by `make docs`. The names are those of the published training
script where it had one. Hyphens and underscores are the same, and a switch such as `--pin-mem` has
a `--no-pin-mem`. In a configuration file an option is a key: `--batch-size 64` is `batch_size=64`,
inside any top-level dictionary. The command line wins over the file.
"""


def explanations() -> dict[str, tuple[str, str]]:
    """Field -> (section, explanation): the comment above a group, the string below a field."""
    source = inspect.getsource(TrainConfig)
    lines = source.splitlines()
    body = ast.parse(source).body[0].body
    found: dict[str, tuple[str, str]] = {}
    section = ""
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign):
            continue
        above = lines[statement.lineno - 2].strip()
        section = above.removeprefix("# ") if above.startswith("# ") else section
        text = ast.literal_eval(following.value) if isinstance(following, ast.Expr) else ""
        found[statement.target.id] = (section, " ".join(text.split()))
    return found


def options_page() -> str:
    """The text of docs/options.md."""
    texts = explanations()
    lines = [HEAD]
    section = None
    for field in dataclasses.fields(TrainConfig):
        heading, text = texts[field.name]
        if heading != section:
            section = heading
            lines += ["", f"## {section}", "", "| option | default | |", "|---|---|---|"]
        default = "empty" if field.default == "" else str(field.default)
        # A vertical bar would end the cell.
        lines.append(f"| `{option(field.name)}` | {default} | {text.replace('|', '/')} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    (HERE / "options.md").write_text(options_page())
