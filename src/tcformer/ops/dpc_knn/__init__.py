"""Density-peaks clustering with k nearest neighbors, DPC-KNN."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tcformer.arguments import as_float, as_int
from tcformer.ops.dispatch import counted, is_exporting, is_transformed, operator, resolve
from tcformer.ops.dpc_knn import cpp, eager, reference
from tcformer.ops.dpc_knn.peaks import Settings, flop, shapes
from tcformer.shapes import Bool, Float, shaped

__all__ = ["Clusters", "dpc_knn"]

IMPLEMENTATIONS = ("cpp", "triton", "eager", "reference")

TRITON_MAX_K = 29
"""The longest list of neighbors that the Triton kernels keep on the chip, less a reserve."""


class Clusters(NamedTuple):
    """A clustering of B sets of N tokens.

    Attributes:
        assignment: (B, N) int64, the cluster of every token; -1 for masked tokens.
        centers: (B, M) int64, the token at the center of every cluster, ascending; where a mask
            leaves an image fewer tokens than clusters, the last ones are -1.
    """

    assignment: Tensor
    centers: Tensor

    @property
    def centres(self) -> Tensor:
        """:attr:`centers`, under the name that they had before."""
        return self.centers


@torch.no_grad()
@shaped
def dpc_knn(
    x: Float[Tensor, "b n c"],
    num_clusters: int,
    k: int = 5,
    *,
    mask: Bool[Tensor, "b n"] | None = None,
    density_noise: Float[Tensor, "b n"] | None = None,
    tolerance: float = 0.0,
    impl: str = "auto",
) -> Clusters:
    """Cluster tokens around density peaks: dense tokens that lie far from any denser one.

    With d(i,j) = |x_i - x_j| / sqrt(C) and every token its own first neighbor::

        rho_i   = exp(-mean of d^2 over the k nearest neighbors)         density
        delta_i = min of d(i,j) over j before i in (rho down, index up)   separation
        centers = the num_clusters tokens of largest rho_i * delta_i      (the first one: infinite)
        token i joins the nearest center; ties go to the lower index; a center joins itself

    Deterministic: ties are broken by index, never by noise, and every image is treated on its
    own, whatever the batch around it. Memory grows with N, not with N^2. Nothing is
    differentiable here. Computed in float32 or better, also under autocast.

    An image has no distances if a feature is NaN, infinite or so large that squares overflow (from
    2e17 at 128 channels in float32), or if its noise is not finite. Then all its tokens count as
    equal, whatever implementation runs: the first M are the centers, all others join the first of
    them. No other image of the batch changes, no device is waited for. Masked tokens may hold
    anything. Exported graphs do not look, and may cluster such an image otherwise.

    Args:
        x: (B, N, C) float, any float dtype.
        num_clusters: M, from 1, at most N are made; cluster numbers follow the centers' token
            order.
        k: neighbors in the density estimate, from 1 (the token itself); at most N count.
        mask: (B, N) bool, True for tokens that take part. The others are nobody's neighbor and
            no center.
        density_noise: (B, N) float added to the densities, to compare with the published code,
            which draws uniform noise of 1e-6 even at inference. Nothing by default.
        tolerance: distances d up to this one, itself from 0, count as zero. Where features are
            results of arithmetic, a little more than its rounding makes equal inputs equal tokens
            again.
        impl: "auto", "cpp" (C++, where it could be compiled), "triton" (on a GPU, k up to 29),
            "eager" or "reference".

    Returns:
        :class:`Clusters`.

    Raises:
        ValueError: x is not (B, N, C), there is no token, or another argument does not fit it.
        TypeError: ``num_clusters`` or ``k`` is no integer, or ``tolerance`` no real number.

    Source: Du, Ding and Jia, "Study on density peaks clustering based on k-nearest neighbors and
    principal component analysis" (2016); TCFormer (CVPR 2022), section 3.2, eq. 1-3.
    """
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(
            f"dpc_knn: x must be float of shape (B, N, C), not {x.dtype} {tuple(x.shape)}."
        )
    if x.shape[1] == 0 or x.shape[2] == 0:
        raise ValueError(f"dpc_knn: there is nothing to cluster in shape {tuple(x.shape)}.")
    for name, value in (("mask", mask), ("density_noise", density_noise)):
        if value is not None and value.shape != x.shape[:2]:
            raise ValueError(
                f"dpc_knn: {name} must have shape {tuple(x.shape[:2])}, not {tuple(value.shape)}."
            )
        if value is not None and value.device != x.device:
            raise ValueError(f"dpc_knn: {name} must be on {x.device} as x is, not {value.device}.")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"dpc_knn: mask must be bool, not {mask.dtype}.")
    x = x if x.dtype == torch.float64 else x.float()
    num_clusters = min(as_int("dpc_knn: num_clusters", num_clusters), x.shape[1])
    k = min(as_int("dpc_knn: k", k), x.shape[1])
    tolerance = as_float("dpc_knn: tolerance", tolerance)
    impl = resolve("dpc_knn", impl, IMPLEMENTATIONS, x.device, unsupported=_unsupported(x, k))
    x, density_noise = _with_distances(x, mask, density_noise)
    opaque = impl == "triton" or (impl == "cpp" and not _on_host(x))
    run = _OPERATOR if opaque or counted() else _run
    with torch.autocast(x.device.type, enabled=False):
        return Clusters(*run(x, num_clusters, k, mask, density_noise, tolerance, impl))


def _on_host(x: Tensor) -> bool:
    """Whether Python may look at the values; not of tensors that are traced or transformed."""
    plain = type(x) is Tensor and x.device.type == "cpu"
    return plain and not (torch.compiler.is_compiling() or is_transformed())


def _with_distances(
    x: Tensor, mask: Tensor | None, noise: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Features and noise; zeros for images without distances, which makes their tokens equal."""
    if is_exporting():
        return x, noise
    seen = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)
    largest = seen.abs().amax(dim=(1, 2))
    # The greatest sum that any implementation forms is 16 C times the square of this.
    usable = largest <= (torch.finfo(x.dtype).max / (64 * x.shape[2])) ** 0.5  # false for NaN
    if noise is not None:
        used = noise if mask is None else noise.masked_fill(~mask, 0.0)
        usable = usable & torch.isfinite(used).all(dim=1)
    if _on_host(x) and bool(usable.all()):
        return x, noise  # not copied
    x = torch.where(usable[:, None, None], x, 0.0)
    return x, None if noise is None else torch.where(usable[:, None], noise, 0.0)


def _run(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *values, impl = arguments
    settings = Settings(*values)
    if impl == "cpp":
        return cpp.dpc_knn(x, settings)
    if impl == "triton":
        from tcformer.ops.dpc_knn import triton

        return triton.dpc_knn(x, settings)
    if impl == "reference":
        return reference.dpc_knn(x, settings)
    return eager.dpc_knn(x, settings)


# One opaque node for compilers and counters: kernels are launched as they are, nothing waits.
_OPERATOR = operator(
    "dpc_knn(Tensor x, SymInt num_clusters, SymInt k, Tensor? mask, Tensor? density_noise,"
    " float tolerance, str impl) -> (Tensor, Tensor)",
    _run,
    shapes,
    flops=flop,
    raw_flops=False,
)


def _unsupported(x: Tensor, k: int) -> dict[str, str | None]:
    """Why an implementation cannot take these arguments."""
    if x.dtype == torch.float64:
        reason = "it computes in float32, these features are float64"
        return dict.fromkeys(("cpp", "triton"), reason)
    if k > TRITON_MAX_K:
        return {"triton": f"its lists hold {TRITON_MAX_K} neighbors, not k={k}"}
    return {}
