"""Compile Triton kernels for an H200 on a machine without one, from the launches of real code."""

import re
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

SHARED_MEMORY = 227 * 1024
"""Bytes that one program may use on compute capability 9.0."""

TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "i1",
}


class Launch(NamedTuple):
    """What decides the machine code of a launch."""

    kernel: object
    signature: tuple
    constants: tuple
    divisible: tuple
    options: tuple

    @property
    def name(self):
        return self.kernel.__name__


class Compiled(NamedTuple):
    shared: int
    ptx: str
    registers: int
    spilled: int


@contextmanager
def recorded():
    """Collect the launches of all kernels instead of making them; works with fake tensors."""
    from triton.runtime.jit import JITFunction

    launches = {}

    def record(self, *values, grid, warmup, **options):
        assert all(0 < size < 2**31 for size in grid)
        assert all(size < 2**16 for size in grid[1:])
        constants = {n: options.pop(n) for n in self.arg_names if n in options}
        signature, divisible = {}, []
        for place, (name, value) in enumerate(
            zip(self.arg_names, (*values, *constants.values()), strict=True)
        ):
            if isinstance(value, torch.Tensor):
                assert value.device.type == "cuda", f"{self.__name__}: {name} is not on the GPU"
                assert value.is_contiguous(), f"{self.__name__}: {name} has gaps"
                signature[name] = f"*{TYPES[value.dtype]}"
                divisible.append(place)
            elif place >= len(values) or (type(value) is int and value == 1):
                constants[name] = value
                signature[name] = "constexpr"
            elif type(value) is int:
                signature[name] = "i32" if abs(value) < 2**31 else "i64"
                divisible += [place] if value % 16 == 0 else []
            else:
                assert type(value) is float, f"{self.__name__}: {name} is a {type(value)}"
                signature[name] = "fp32"
        parts = (sorted(signature.items()), sorted(constants.items()), divisible)
        launch = Launch(self, *map(tuple, parts), tuple(sorted(options.items())))
        launches[launch] = launches.get(launch, 0) + 1

    real = JITFunction.run
    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = real


def compiled(launch, folder):
    """Compile a launch down to machine code for sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    place = {name: number for number, name in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        fn=launch.kernel,
        signature={name: dict(launch.signature)[name] for name in launch.kernel.arg_names},
        constexprs={(place[name],): value for name, value in launch.constants},
        attrs={(number,): [["tt.divisibility", 16]] for number in launch.divisible},
    )
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(launch.options))
    assert len(made.asm["cubin"]) > 0
    path = Path(folder, f"{launch.name}.ptx")
    path.write_text(made.asm["ptx"])
    said = subprocess.run(
        [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", path, "-o", path.with_suffix(".cubin")],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    (registers,) = re.findall(r"Used (\d+) registers", said)
    (spilled,) = re.findall(r"(\d+) bytes spill stores", said)
    return Compiled(made.metadata.shared, made.asm["ptx"], int(registers), int(spilled))
