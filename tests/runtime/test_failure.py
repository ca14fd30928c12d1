"""What is told when a process fails, is gone, or does not answer."""

from __future__ import annotations

import pytest
import torch

from tcformer.errors import UserError
from tcformer.runtime.devices import out_of_memory
from tcformer.runtime.failure import collective_timeout, sentence_about, trouble_with_others

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("words", "trouble"),
    [
        ("[pair.cc:561] Connection closed by peer [127.0.0.1]:21740. This is typically", "gone"),
        ("[pair.cc:545] Read error [::1]:6032: Connection reset by peer.", "gone"),
        (
            "[unbound_buffer.cc:81] Timed out waiting 3000ms for recv operation to complete",
            "silent",
        ),
        ("Application timeout caused pair closure", "silent"),
        ("mat1 and mat2 shapes cannot be multiplied", ""),
        ("DataLoader worker (pid 7) Broken pipe", ""),
    ],
)
def test_errors_of_torch_about_other_processes(words, trouble):
    assert trouble_with_others(RuntimeError(words)) == trouble
    assert trouble_with_others(ValueError(words)) == ""


def test_who_is_missing():
    assert "error: process 1 of 2 is gone" in sentence_about([1], 2, "gone")
    assert "error: processes 1 and 3 of 4 are gone" in sentence_about([1, 3], 4, "gone")
    assert "another process is gone" in sentence_about([], 4, "gone")
    assert "0 and 1 and 2 and 3 and others of 9 have not" in sentence_about(range(9), 9, "silent")
    for trouble in ("gone", "silent"):
        assert "\n" not in sentence_about([1], 2, trouble)


def test_the_timeout_is_set_by_a_variable():
    assert collective_timeout({}) == 1800
    assert collective_timeout({"TCFORMER_TIMEOUT": "2.5"}) == 2.5
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        with pytest.raises(UserError, match="TCFORMER_TIMEOUT must be a number of seconds"):
            collective_timeout({"TCFORMER_TIMEOUT": wrong})


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory on the CPU; use a smaller --batch-size"),
        (RuntimeError("std::bad_alloc"), "out of memory on the CPU; use"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 80 bytes."),
            "out of memory on the CPU when it asked for 80 bytes",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"),
            "out of memory on the CPU when it asked for 2.50 GiB",
        ),
        (
            MemoryError("Caught MemoryError in DataLoader worker process 0."),
            "out of memory on a data worker; use fewer --num_workers",
        ),
        (RuntimeError("the shapes do not fit"), ""),
        (ValueError("out of memory"), ""),
    ],
)  # fmt: skip
def test_memory_that_is_lacking(error, told):
    said = out_of_memory(error, CPU)
    assert said.startswith(told)
    assert bool(said) == bool(told)


def test_the_memory_of_a_gpu():
    assert "on cuda:1;" in out_of_memory(MemoryError(), torch.device("cuda", 1))
