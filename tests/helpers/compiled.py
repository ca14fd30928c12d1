"""What compilers get to see: a backend that shows its graphs, and tensors that pretend a GPU."""

import functools

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode


class Graphs:
    """A backend for ``torch.compile`` that runs the operators as they are and remembers them."""

    def __init__(self):
        self.operators = []
        self._backend = aot_autograd(fw_compiler=self._note, bw_compiler=self._note)

    def __call__(self, graph, inputs):
        return self._backend(graph, inputs)

    def _note(self, graph, inputs):
        self.operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def count(self, *names):
        """How many operators of the graphs have one of these in their names."""
        return sum(any(name in operator for name in names) for operator in self.operators)


def fake(*shape, dtype=torch.float32, **options):
    """A tensor without values that claims to be on a GPU; within FakeTensorMode."""
    if not _works_without_a_driver():
        pytest.skip("this torch slices no fake CUDA tensor without a driver (2.11 does)")
    return torch.empty(*shape, dtype=dtype, device="cuda", **options)


@functools.cache
def _works_without_a_driver():
    try:
        with FakeTensorMode():
            torch.empty(2, 2, device="cuda")[:, :1]
    except RuntimeError:
        return False
    return True
