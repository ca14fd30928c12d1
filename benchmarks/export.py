"""Time exported models beside PyTorch: python benchmarks/export.py FILE...

Each file is what `tcformer export MODEL --out FILE` wrote at 224 px with random weights; its name
begins with the model's. The figures go into a record beside those of `tcformer bench`.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import torch

from tcformer import drawn, predict
from tcformer.bench import record
from tcformer.export import making, timing
from tcformer.export.formats import FORMATS

BATCHES = (1, 8)
ROUNDS = 5


def main(words: list[str]) -> None:
    """Time every file and keep the record."""
    names = [Path(word).name for word in words]
    kept = record.begin(names, torch.device("cpu"), "python benchmarks/export.py")
    kept["versions"] |= {name: version(name) for name in ("onnx", "onnxruntime", "openvino")}
    kept["export"] = []
    for path in map(Path, words):
        name = path.name.partition(".")[0]
        kind = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2"}[path.suffix]
        kind = "aoti" if ".aoti." in path.name else kind
        loaded = predict.load(name)
        contract = making._contract(loaded, None, "normalised", ("logits", "tokens"))
        runner = FORMATS[kind].load(path, contract)
        images = making._as_input(loaded, contract, drawn.scenes(contract.size, max(BATCHES)))
        for batch in BATCHES:
            times = timing.measure(loaded.network, contract, runner, images[:batch], ROUNDS)
            print(f"{path.name}: {times.line()}", flush=True)
            figures = {"network_ms": times.network, "exported_ms": times.exported}
            kept["export"].append(
                {
                    "model": name,
                    "format": kind,
                    "size": contract.size,
                    "batch": batch,
                    "threads": times.threads,
                    "rounds": ROUNDS,
                    **{key: round(value, 2) for key, value in figures.items()},
                    "ratio": [round(value, 3) for value in times.ratio],
                }
            )
    print(f"wrote {record.keep(kept, 'export')}")


if __name__ == "__main__":
    main(sys.argv[1:])
