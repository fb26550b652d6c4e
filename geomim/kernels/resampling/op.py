"""Invert distribution functions along rays, as a torch operator; without gradient.

Samples are where a loss is looked at, not what it depends on: Mildenhall et al. 2020 and all after
them stop the gradient here.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.resampling import cuda, reference
from geomim.kernels.selection import selected_kernels


@torch.no_grad()
def invert_cdf(edges: Tensor, weights: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Return places and which rows are known; see ``reference.invert_cdf``.

    In single precision, or in double if any input is.
    """
    dtype = _compute_dtype(edges, weights, fractions)
    arguments = tuple(x.detach().to(dtype) for x in (edges, weights, fractions))
    if selected_kernels() == "reference":
        return reference.invert_cdf(*arguments)
    return torch.ops.geomim.invert_cdf(*arguments)


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::invert_cdf",
    "(Tensor edges, Tensor weights, Tensor fractions) -> (Tensor places, Tensor known)",
)


@torch.library.register_fake("geomim::invert_cdf")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _empty_places(edges: Tensor, _weights: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    rows = edges.shape[0]
    places = edges.new_empty((rows, fractions.shape[1]))
    return places, edges.new_empty((rows,), dtype=torch.bool)


@torch.library.impl("geomim::invert_cdf", "cpu")
def _invert_cdf_on_cpu(edges: Tensor, weights: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.resampling import cpu

    places, known = _empty_places(edges, weights, fractions)
    cpu.invert_cdf(
        *_arrays(edges, weights, fractions, places, known), threads=torch.get_num_threads()
    )
    return places, known


@torch.library.impl("geomim::invert_cdf", "cuda")
def _invert_cdf_on_cuda(edges: Tensor, weights: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    places, known = _empty_places(edges, weights, fractions)
    cuda.invert_cdf(edges.contiguous(), weights.contiguous(), fractions.contiguous(), places, known)
    return places, known


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.contiguous().numpy() for tensor in tensors)
