"""Shapes in signatures, which the tests check: ``Float[Tensor, "b n c"]``, as jaxtyping writes it.

Letters are sizes: b images, n tokens, c channels, h and w of a map. Where the variable
TCFORMER_CHECK_SHAPES is set while the package is imported, as tests/conftest.py sets it, every call
of a :func:`shaped` function is checked (jaxtyping and beartype must be installed). Otherwise the
names stand for any tensor and cost nothing.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

__all__: list[str] = ["CHECKED", "Bool", "Float", "Integer", "shaped"]

CHECKED = bool(os.environ.get("TCFORMER_CHECK_SHAPES"))
"""Whether calls are checked in this process."""

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Integer
elif CHECKED:
    from jaxtyping import Bool, Float, Integer
else:

    class Float:
        """Any tensor: what stands in the brackets is for readers."""

        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Bool = Integer = Float

_Function = TypeVar("_Function", bound=Callable[..., Any])


def shaped(function: _Function) -> _Function:
    """Check the tensors that a function takes and returns, where that is wanted.

    What the function refuses itself stays its own refusal; what it takes without a word although
    the signature says otherwise is an error. Nothing is checked while a graph is traced.
    """
    return _checking(function) if CHECKED else function


def _checking(function: Any) -> Any:
    from beartype import beartype
    from jaxtyping import TypeCheckError, jaxtyped

    twin = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    # Numbers may be NumPy's or tensors: functions read those themselves.
    twin.__annotations__ = {
        name: annotation
        for name, annotation in function.__annotations__.items()
        if "[Tensor" in annotation
    }
    strict = jaxtyped(typechecker=beartype)(twin)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **options)
        try:
            return strict(*args, **options)
        except TypeCheckError:
            function(*args, **options)
            raise

    return call
