"""Leave out samples that are not valid, so that rays are summed as if they never had them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Which samples are left, and where those of each ray start among them."""

    places: Tensor
    offsets: Tensor


def pack(valid: Tensor, offsets: Tensor | None, rays: int) -> Packing:
    """Find the valid samples, and which of them are whose."""
    count = valid.shape[0]
    if offsets is None:
        offsets = torch.arange(rays + 1, device=valid.device) * (count // max(rays, 1))
    before = torch.nn.functional.pad(valid.cumsum(dim=0), (1, 0))
    return Packing(valid.nonzero()[:, 0], before[offsets])


def unpack(packed: Tensor, packing: Packing, count: int) -> Tensor:
    """Put results of samples back to their places among ``count``, with 0 between them."""
    whole = packed.new_zeros((count, *packed.shape[1:]))
    return whole.index_copy_(0, packing.places, packed)
