"""The card of a model on the Hub, written from the record of its training. No figure is made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tcformer.processor import label
from tcformer.training.config import TrainConfig

__all__ = ["model_card"]

_Result = tuple[str, float, int]

_METRICS = {"acc1": ("accuracy", "top-1 accuracy"), "miou": ("mean_iou", "mean IoU")}
# Of a configuration, what says nothing about the training.
_PRIVATE = {"output_dir", "resume", "record", "data_path", "device", "dist_url", "num_workers"}

_USE = """\
```python
import tcformer

model = tcformer.load("hf-hub:{repo}")  # or the path of a folder with these files
print(model.predict("picture.jpg"))
```

With timm (`import tcformer` registers the architecture):

```python
import timm
import tcformer

model = timm.create_model("hf-hub:{repo}", pretrained=True)
```
"""


def model_card(
    config: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    *,
    name: str,
    repo: str | None = None,
    license: str | None = None,
    epoch: int | None = None,
) -> str:
    """README.md for a folder in timm's hub format, whose `config.json` holds `config`.

    `record` is that of the training (`tcformer.training.record`); without one the card says that
    nothing is known. `epoch` is that of the weights; None for the best.
    """
    name = _cell(name)
    result = None if record is None else _result(record, epoch)
    channels, side, _ = config["pretrained_cfg"]["input_size"]
    kind = f"{config['num_classes']} classes" if config["num_classes"] else "no classifier"
    merging = config.get("model_args")
    how = f" Tokens are merged with {json.dumps(merging)}." if merging else ""
    parts = [
        _front(name, config, license, record, result),
        f"# {name}",
        f"`{config['architecture']}`, {kind}, for images of {side} x {side} pixels and {channels} "
        f"channel{'s' * (channels != 1)}.{how}",
        "## Use",
        _USE.format(repo=_cell(repo or f"USER/{name}")).rstrip(),
        "## How it was trained",
        "No record of its training came with it, so nothing is known here about how it was "
        "trained or how good it is."
        if record is None
        else _training(record, result),
    ]
    if labels := config.get("label_names"):
        more = len(labels) - 20
        names = ", ".join(_cell(label) for label in labels[:20])
        parts += ["## Classes", names + (f" and {more} more" if more > 0 else "")]
    parts += [
        "## Source",
        "TCFormer: Zeng et al., Not All Tokens Are Equal: Human-centric Visual Analysis via Token "
        "Clustering Transformer, CVPR 2022 (arXiv:2204.08680).",
    ]
    return "\n\n".join(parts) + "\n"


def _front(
    name: str,
    config: Mapping[str, Any],
    license: str | None,
    record: Mapping[str, Any] | None,
    result: _Result | None,
) -> str:
    """What the Hub reads: YAML between two lines."""
    from huggingface_hub import EvalResult, ModelCardData

    task = "image-classification" if config["num_classes"] else "image-feature-extraction"
    measured = None
    if result is not None and record is not None:
        data = str(record.get("data", {}).get("name", "unknown"))
        kind = _METRICS.get(result[0], (result[0], ""))[0]
        measured = [EvalResult(task, data, data, kind, round(result[1], 3))]
    told = ModelCardData(
        license=license,
        tags=[task, "timm", "tcformer"],
        library_name="timm",
        pipeline_tag=task,
        model_name=name if measured else None,
        eval_results=measured,
    )
    return f"---\n{told.to_yaml()}\n---"


def _result(record: Mapping[str, Any], epoch: int | None) -> _Result | None:
    """Metric, value and epoch of these weights, if they were measured."""
    metric = str(record.get("metric"))
    if epoch is None:
        best = record.get("best") or {}
        return (metric, best[metric], best["epoch"]) if metric in best else None
    values = [e.get(f"test_{metric}") for e in record["epochs"] if e["epoch"] == epoch]
    return next(((metric, value, epoch) for value in values if value is not None), None)


def _training(record: Mapping[str, Any], result: _Result | None) -> str:
    """A table of what the record says, without what it does not know."""
    data, sessions = record.get("data", {}), record["sessions"]
    last = sessions[-1] if sessions else {}
    machine, versions = last.get("machine", {}), last.get("versions", {})
    rows: dict[str, object] = {"data": data.get("name")}
    for split in ("train", "val"):
        if found := data.get(split):
            rows[split] = (
                f"{found['images']} images, {found['classes']} classes, fingerprint "
                f"{found['sha256']}"
            )
    if result is not None:
        words = _METRICS.get(result[0], ("", result[0]))[1]
        rows[words] = f"{result[1]:.3f} % after epoch {result[2]} (counted from 0)"
    changed = ", with changes" if last.get("changed") else ""
    rows |= {
        "epochs done": len(record["epochs"]),
        "status of the run": record.get("status"),
        "seed": record.get("seed"),
        "wall time": f"{record.get('wall_seconds', 0):.0f} s in {len(sessions)} session(s)",
        "machine": machine.get("gpu") or (label(machine) if "processor" in machine else None),
        "processes": last.get("processes"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if v is not None),
        "commit": f"{last['commit']}{changed}" if last.get("commit") else None,
        "command": last.get("command"),
    }
    defaults = TrainConfig().flat()
    for key, value in record.get("config", {}).items():
        default = defaults.get(key)
        default = list(default) if isinstance(default, tuple) else default
        if key not in _PRIVATE and value != default:
            rows[f"--{key.replace('_', '-')}"] = json.dumps(value)
    lines = [f"| {_cell(a)} | {_cell(b)} |" for a, b in rows.items() if b not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: object) -> str:
    """One line without what Markdown or HTML would take for its own."""
    text = " ".join(str(value).split())
    for sign, plain in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        text = text.replace(sign, plain)
    return text
