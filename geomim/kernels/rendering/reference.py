"""Define what rendering along rays means, in plain torch, differentiable any number of times.

All samples lie one after another. Ray ``r`` has those from ``offsets[r]`` to ``offsets[r + 1]``,
or, without offsets, all rays have equally many. Samples that are not ``valid`` are not there. A ray
of which anything is not finite is not known: all of it is 0, with zero gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from geomim.kernels.rendering.schema import Rendered, compute_dtype


def render_density(
    densities: Tensor,
    starts: Tensor,
    ends: Tensor,
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    """Absorb and emit: Max 1995, equation 10, as sums over samples of constant density.

    The light that reaches a sample is ``T = exp(-sum of density * length in front of it)``, its
    weight ``w = T (1 - exp(-density * length))``. An infinite density is opaque.

    Args:
        densities: One a sample, per unit of length.
        starts: Where each sample begins along its ray.
        ends: Where it ends.
        values: Samples by channels.
        valid: True for samples that are there, or None.
        offsets: The first sample of each ray and the number of samples, or None.
        rays: How many rays there are.

    Returns:
        The samples' weights; each ray's sum of weights, the light that passes the ray to its end,
        and the weighted sums of middles and of values; whether the ray is known.
    """
    real = compute_dtype(densities, starts, ends, values)
    densities, starts, ends = densities.to(real), starts.to(real), ends.to(real)

    def weigh(present: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dense, first, last = (_take(x, index, present) for x in (densities, starts, ends))
        depths, middles = optical_depths(dense, first, last, None)
        through = depths.cumsum(dim=-1)
        # Exclusive, by a shift: infinity less infinity would be NaN.
        before = torch.nn.functional.pad(through, (1, 0))
        weights = torch.exp(-before[:, :-1]) * -torch.expm1(-depths)
        return weights, middles, torch.exp(-before[:, -1])

    return _render(weigh, values.to(real), valid, offsets, rays)


def render_alpha(
    alphas: Tensor,
    distances: Tensor,
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    """Composite from front to back: ``w = alpha * product of (1 - alpha) in front``.

    Args and results as for ``render_density``; ``distances`` take the place of the middles.
    """
    real = compute_dtype(alphas, distances, values)
    alphas, distances = alphas.to(real), distances.to(real)

    def weigh(present: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        opaque = _take(alphas, index, present)
        before = torch.nn.functional.pad((1 - opaque).cumprod(dim=-1), (1, 0), value=1.0)
        return before[:, :-1] * opaque, _take(distances, index, present), before[:, -1]

    return _render(weigh, values.to(real), valid, offsets, rays)


def optical_depths(
    densities: Tensor, starts: Tensor, ends: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return density times length and the middle of samples, 0 where they are not valid.

    However dense, nothing is in nothing; however long, where nothing is. What is infinite passes on
    no gradient.
    """
    if valid is not None:
        densities, starts, ends = (torch.where(valid, x, 0.0) for x in (densities, starts, ends))
    lengths = ends - starts
    product = (densities * lengths).detach()
    finite = product.isfinite()
    inner = torch.where(finite, densities, 0.0) * torch.where(finite, lengths, 0.0)
    nothing = (densities == 0) | (lengths == 0)
    depths = torch.where(finite, inner, torch.where(nothing, 0.0, product))
    return depths, (starts + ends) / 2


def _render(
    weigh: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    """Weigh the samples, mix what they have, and leave out rays that come out not finite."""
    count = values.shape[0]
    index, present = _rows(offsets, rays, count, values)
    if valid is not None:
        present = present & _take(valid, index, present)

    def mix(present: Tensor) -> tuple[Tensor, ...]:
        weights, middles, left = weigh(present, index)
        own = _take(values, index, present)
        rendered = (weights[..., None] * own).sum(dim=1)
        return weights, weights.sum(dim=1), left, (weights * middles).sum(dim=1), rendered

    with torch.no_grad():
        _, *sums, rendered = mix(present)
        known = torch.stack(sums).isfinite().all(dim=0) & rendered.isfinite().all(dim=1)
    weights, opacity, left, distance, rendered = mix(present & known[:, None])
    return (
        _flatten(weights, offsets, index, count),
        opacity,
        torch.where(known, left, 0.0),
        distance,
        rendered,
        known,
    )


def _rows(offsets: Tensor | None, rays: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return rays by places the index of each sample, and whether there is one."""
    device = like.device
    if offsets is None:
        size = count // rays if rays else 0
        index = torch.arange(count, device=device).reshape(rays, size)
        return index, torch.ones_like(index, dtype=torch.bool)
    lengths = offsets.diff()
    place = torch.arange(int(lengths.max()) if rays else 0, device=device)
    present = place < lengths[:, None]
    return torch.where(present, offsets[:-1, None] + place, 0), present


def _take(x: Tensor, index: Tensor, present: Tensor) -> Tensor:
    """Return ``x[index]``, 0 where nothing is present."""
    mask = present.reshape(*present.shape, *(1,) * (x.ndim - 1))
    return torch.where(mask, x[index], torch.zeros((), dtype=x.dtype, device=x.device))


def _flatten(weights: Tensor, offsets: Tensor | None, index: Tensor, count: int) -> Tensor:
    """Put rows back one after another."""
    if offsets is None:
        return weights.reshape(count)
    place = torch.arange(weights.shape[1], device=weights.device)
    present = place < offsets.diff()[:, None]
    return weights.new_zeros(count).index_put((index[present],), weights[present])
