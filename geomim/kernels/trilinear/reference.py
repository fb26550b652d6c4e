"""Define trilinear interpolation of channels-last volumes, and all its derivatives, in plain torch.

A point ``p`` in index coordinates (the first cell spans 0 to 1, its centre is at 0.5) sees eight
cells. Along each axis these have weights ``1 - t`` and ``t`` with slopes -1 and 1, so the value has
eight derivatives that are not always 0, here in this order: 1, x, y, z, yz, xz, xy, xyz. With
``D[m]`` the m-th of them, everything comes from one number::

    L = sum over n, k, m, c of  mix[n, k, m] * grad[n, k, c] * D[m](volume, points[n])[c]

``gather`` is dL/dgrad, ``scatter`` is dL/dvolume, ``dots`` is dL/dmix, and dL/dpoints is ``mix``
times ``dots`` of one derivative more. So the derivatives of these three, of whatever order, are
again these three.
"""

from math import prod

import torch
from torch import Tensor

# Derivative along x, y, z of the derivatives in the order above: FROM[axis] becomes TO[axis].
FROM = ((0, 2, 3, 4), (0, 1, 3, 5), (0, 1, 2, 6))
TO = ((1, 6, 5, 7), (2, 6, 4, 7), (3, 5, 4, 7))
_ORDERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1))


def gather(
    volume: Tensor, points: Tensor, mix: Tensor | None, *, border: bool
) -> tuple[Tensor, Tensor]:
    """Return combinations of the volume's derivatives at points, and which points are known.

    Args:
        volume: Batch by z by y by x by channel.
        points: Batch by point by (x, y, z), float64 for a float64 volume, else float32.
        mix: Batch (or 1) by point (or 1) by combination by the eight coefficients; None for the
            value alone.
        border: Repeat the outermost cells for ever, rather than zeros.

    Returns:
        Batch by point by combination by channel, in the volume's dtype: 0 where a point is unknown;
        and batch by point: the point is finite and, without ``border``, within half a cell of the
        volume, so that some cell has a say.
    """
    cells, basis, known = _corners(points, volume.shape[1:4], border)
    rows = _rows(volume.to(points.dtype), cells)
    coefficients = _or_value(mix, points)
    values = torch.einsum("bnkm,bnmj,bnjc->bnkc", coefficients, basis, rows)
    return values.to(volume.dtype), known


def scatter(
    grad: Tensor, points: Tensor, mix: Tensor | None, shape: tuple[int, int, int], *, border: bool
) -> Tensor:
    """Return the gradient of ``gather`` with respect to a volume of z by y by x cells."""
    cells, basis, _ = _corners(points, shape, border)
    coefficients = _or_value(mix, points)
    shares = torch.einsum("bnkm,bnmj,bnkc->bnjc", coefficients, basis, grad.to(points.dtype))
    batch, channels, voxels = grad.shape[0], grad.shape[3], prod(shape)
    first = torch.arange(batch, device=grad.device)[:, None, None] * voxels
    volume = shares.new_zeros(batch * voxels, channels).index_add(
        0, (first + cells).flatten(), shares.reshape(-1, channels)
    )
    return volume.reshape(batch, *shape, channels).to(grad.dtype)


def dots(volume: Tensor, points: Tensor, grad: Tensor, *, border: bool) -> Tensor:
    """Return batch by point by combination by eight: ``grad`` times each derivative."""
    cells, basis, _ = _corners(points, volume.shape[1:4], border)
    rows = _rows(volume.to(points.dtype), cells)
    return torch.einsum("bnmj,bnjc,bnkc->bnkm", basis, rows, grad.to(points.dtype))


def _or_value(mix: Tensor | None, points: Tensor) -> Tensor:
    """Expand the coefficients over the points; None stands for the value."""
    if mix is None:
        mix = points.new_tensor([1.0] + [0.0] * 7).reshape(1, 1, 1, 8)
    return mix.expand(*points.shape[:2], -1, -1)


def _rows(volume: Tensor, cells: Tensor) -> Tensor:
    batch = torch.arange(volume.shape[0], device=volume.device)[:, None, None]
    return volume.flatten(1, 3)[batch, cells]


def _corners(
    points: Tensor, shape: tuple[int, ...] | torch.Size, border: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return every point's eight cells, eight derivatives of their weights, and who is known."""
    sizes = (shape[2], shape[1], shape[0])
    known = torch.stack([_supported(points[..., i], sizes[i], border) for i in range(3)]).all(dim=0)
    axes = [_axis(torch.where(known, points[..., i], 0.5), sizes[i], border) for i in range(3)]
    (x, wx), (y, wy), (z, wz) = axes
    cells = (z[..., :, None, None] * sizes[1] + y[..., None, :, None]) * sizes[0]
    cells = cells + x[..., None, None, :]
    basis = [
        wz[i][..., :, None, None] * wy[j][..., None, :, None] * wx[k][..., None, None, :]
        for k, j, i in _ORDERS
    ]
    stacked = torch.stack(basis, dim=-4).flatten(-3)
    return cells.flatten(-3), torch.where(known[..., None, None], stacked, 0.0), known


def _supported(p: Tensor, size: int, border: bool) -> Tensor:
    return p.isfinite() if border else (p > -0.5) & (p < size + 0.5)


def _axis(p: Tensor, size: int, border: bool) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the two cells along an axis, their weights and the slopes of the weights."""
    q = (p - 0.5).clamp(-1, size)
    low = q.detach().floor()
    pair = torch.stack([low, low + 1], dim=-1)
    counts = torch.ones_like(pair) if border else ((pair >= 0) & (pair < size)).to(p.dtype)
    t = q - low
    weights = torch.stack([1 - t, t], dim=-1) * counts
    slopes = torch.stack([-counts[..., 0], counts[..., 1]], dim=-1)
    return pair.clamp(0, size - 1).long(), (weights, slopes)
