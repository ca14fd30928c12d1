"""Attention of tokens over (reduced) keys, with a learned importance added to every key."""

from __future__ import annotations

from torch import Tensor

from tcformer.arguments import as_float
from tcformer.ops.attend import eager
from tcformer.ops.dispatch import resolve
from tcformer.shapes import Float, shaped

__all__ = ["attend"]

IMPLEMENTATIONS = ("eager", "reference")


@shaped
def attend(
    q: Float[Tensor, "b heads nq d"],
    k: Float[Tensor, "b heads nk d"],
    v: Float[Tensor, "b heads nk d"],
    *,
    bias: Float[Tensor, "b nk"] | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> Float[Tensor, "b heads nq d"]:
    """Multi-head attention whose score carries one additive bias a key.

    ``softmax(q k^T / sqrt(d) + bias) v``; the bias (a log-weight: the importance score of the
    paper) is shared by all heads and queries and has a gradient.

    Args:
        q: (B, heads, Nq, d) float.
        k: (B, heads, Nk, d), dtype of q.
        v: (B, heads, Nk, d), dtype of q.
        bias: (B, Nk) float, or None.
        dropout: probability, in [0, 1], of dropping an attention weight; 0 for evaluation.
        impl: "auto", "eager" (PyTorch's SDPA) or "reference".

    Returns:
        (B, heads, Nq, d), dtype of q.

    Raises:
        ValueError: shapes that do not belong together, or an unknown ``impl``.
        TypeError: ``dropout`` is no real number.

    Source: TCFormer (CVPR 2022), section 3.3, eq. 5.
    """
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4:
        raise ValueError(
            "attend: q must be (B, heads, Nq, d) and k, v both (B, heads, Nk, d), not "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}."
        )
    if q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"attend: q {tuple(q.shape)} and k {tuple(k.shape)} must agree in batch, heads, width."
        )
    if bias is not None and bias.shape != (k.shape[0], k.shape[2]):
        raise ValueError(
            f"attend: bias must have shape {(k.shape[0], k.shape[2])}, not {tuple(bias.shape)}."
        )
    if type(dropout) is not float or dropout != 0.0:
        dropout = as_float("attend: dropout", dropout, 0.0, 1.0)
    if impl != "auto" and resolve("attend", impl, IMPLEMENTATIONS, q.device) == "reference":
        from tcformer.ops.attend import reference

        return reference.attend(q, k, v, bias, dropout)
    return eager.attend(q, k, v, bias, dropout)
