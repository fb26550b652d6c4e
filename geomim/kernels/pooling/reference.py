"""Define which cells a frustum hits, and the pooling of weighted features into them, by torch.

Every pixel of every view has features, and bins with a weight and a cell each::

    pooled[cell[v, d, p]] += weights[v, d, p] * features[v, p]

The result is linear in both, so that ``backward``, linear in all three of its inputs, has the two
of them for derivatives again.
"""

import torch
from torch import Tensor


def pool(features: Tensor, weights: Tensor, cell: Tensor, cells: int) -> Tensor:
    """Return cell by channel: the sum of what falls into each, in the dtype of ``features``.

    Args:
        features: View by pixel by channel.
        weights: View by bin by pixel.
        cell: View by bin by pixel; what is not within 0 and ``cells`` falls nowhere.
        cells: How many there are.
    """
    exact = compute_dtype(features)
    shares = features.to(exact)[:, None] * weights.to(exact)[..., None]
    pooled = shares.new_zeros(cells + 1, features.shape[2])
    pooled = pooled.index_add(0, _or_last(cell, cells), shares.flatten(0, 2))
    return pooled[:-1].to(features.dtype)


def pool_backward(
    grad: Tensor, features: Tensor, weights: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of features and of weights, given that of ``pool``."""
    exact = compute_dtype(features)
    rows = torch.cat([grad.to(exact), grad.new_zeros(1, grad.shape[1], dtype=exact)])
    rows = rows[_or_last(cell, grad.shape[0])].reshape(*cell.shape, grad.shape[1])
    for_features = torch.einsum("vdpc,vdp->vpc", rows, weights.to(exact))
    for_weights = torch.einsum("vdpc,vpc->vdp", rows, features.to(exact))
    return for_features.to(features.dtype), for_weights.to(weights.dtype)


def frustum_cells(
    start: Tensor,
    step: Tensor,
    depths: Tensor,
    frame: Tensor,
    views: int,
    shape: tuple[int, int, int],
) -> Tensor:
    """Return view by bin by pixel: the cell of each point, counted through the items, or -1.

    Args:
        start: View by (x, y, z), where all rays of a view start.
        step: View by pixel by (x, y, z), how far a metre of depth leads; NaN leads nowhere.
        depths: Of the bins; NaN leads nowhere.
        frame: The lower corner of the grid and the size of its cells, two rows of (x, y, z).
        views: How many views an item has; an item has cells of its own.
        shape: Cells along x, y, z.
    """
    cell = torch.arange(start.shape[0], device=start.device)[:, None, None] // views
    inside = torch.ones((), dtype=torch.bool, device=start.device)
    for axis in (2, 1, 0):
        point = start[:, None, None, axis] + step[:, None, :, axis] * depths[:, None]
        place = (point - frame[0, axis]) / frame[1, axis]
        held = (place >= 0) & (place < shape[axis])
        inside = inside & held
        cell = cell * shape[axis] + torch.where(held, place, 0.0).long()
    return torch.where(inside, cell, -1)


def compute_dtype(features: Tensor) -> torch.dtype:
    """Return the dtype of all arithmetic."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _or_last(cell: Tensor, cells: int) -> Tensor:
    """Send what falls nowhere to one cell more."""
    return torch.where((cell >= 0) & (cell < cells), cell, cells).flatten()
