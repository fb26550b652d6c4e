"""Define the inverse of a piecewise linear distribution function, in plain torch."""

import torch
from torch import Tensor


def invert_cdf(edges: Tensor, weights: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places in front of which lie given fractions of the weight.

    Weight is spread evenly over its interval, and if there is none, over all of them. The fraction
    0 is where the first interval with a weight starts, 1 where the last one ends, to the last bit;
    no place lies where there is no weight, and places rise with their fractions.

    Args:
        edges: Rows by intervals and one, rising.
        weights: Rows by intervals, at least one; not negative.
        fractions: Rows, or one for all, by places; from 0 to 1.

    Returns:
        Rows by places; and whether the row's sums are finite: places are 0 if not.
    """
    total = weights.sum(dim=1, keepdim=True)
    weights = torch.where(total == 0, edges.diff(dim=1), weights)
    # Some devices sum in an order in which rounding can make a sum fall.
    sums = torch.nn.functional.pad(weights.cumsum(dim=1), (1, 0)).cummax(dim=1).values
    known = (total + sums[:, -1:]).isfinite()
    sums = torch.where(known, sums, 0.0)
    target = fractions.expand(len(edges), -1) * sums[:, -1:]
    ends = sums[:, 1:].contiguous()
    last = torch.searchsorted(ends, sums[:, -1:].contiguous())
    index = torch.searchsorted(ends, target.contiguous(), right=True).minimum(last)
    before, behind, start, end = (
        x.gather(1, index) for x in (sums[:, :-1], ends, edges[:, :-1], edges[:, 1:])
    )
    mass = behind - before
    inside = torch.where(mass > 0, (target - before) / torch.where(mass > 0, mass, 1.0), 1.0)
    moved = torch.minimum(start + (end - start) * inside, end)
    return torch.where(known, torch.where(inside < 1, moved, end), 0.0), known[:, 0]
