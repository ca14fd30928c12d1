"""Exported models: a network as a file that other programs run, and the proof that it is the same.

    from tcformer import export, predict

    report = export.export(predict.load("tcformer_light"), "light.onnx")
    print(report.parity)

A file is kept only if it clusters real pictures as PyTorch does and gives the same numbers.
"""

from tcformer.export.contract import INPUTS, OUTPUTS, Contract
from tcformer.export.formats import FORMATS
from tcformer.export.making import Report, export
from tcformer.export.parity import TOLERANCE, Parity, Times

__all__ = [
    "FORMATS",
    "INPUTS",
    "OUTPUTS",
    "TOLERANCE",
    "Contract",
    "Parity",
    "Report",
    "Times",
    "export",
]
