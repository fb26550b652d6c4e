"""Define, in plain torch, what it means to walk rays through the cells of a grid.

Everything is computed in double precision: the kernels do the same operations in the same order,
so that all agree on which cells are hit.
"""

import torch
from torch import Tensor

# A stretch may be longer by this share of a step before it takes one sample more.
SLACK = 1e-6

Grid = tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]


def traverse(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupied: Tensor | None,
    grid: Grid,
    step: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cells that rays pass through, or samples within occupied cells.

    Args:
        origins: Ray by 3.
        directions: Ray by 3, in the same dtype.
        near: For each ray where it begins to count, in double precision,
        far: and where it ends.
        occupied: Item by z by y by x; as many rays in a row belong to each. None if all cells are.
        grid: Lower corner, size and number of cells, along x, y, z.
        step: The greatest length of a sample. 0 for one segment a cell.

    Returns:
        Ray, cell (counted with x fastest; none if there is a step), start and end of each segment
        or sample, ray after ray in order of distance.
    """
    at, starts, ends = _pieces(origins, directions, near, far, grid)
    ray = torch.arange(len(origins), device=origins.device)[:, None].expand(starts.shape)
    if occupied is None:
        busy = torch.ones_like(ray, dtype=torch.bool)
    else:
        item = ray * len(occupied) // max(1, len(origins))
        busy = occupied.flatten(1)[item, at]
    real = origins.dtype
    if step == 0:
        # Rounded to the rays' dtype, a segment may have no length left.
        keep = busy & (ends.to(real) > starts.to(real))
        return ray[keep], at[keep], starts[keep].to(real), ends[keep].to(real)
    some = ends > starts
    ray, entry, leave = _stretches(*(part[some] for part in (ray, busy, starts, ends)))
    some = leave.to(real) > entry.to(real)
    return _samples(ray[some], entry[some], leave[some], step, real)


def _pieces(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, grid: Grid
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells between all planes' crossings in order, most of them of length 0."""
    lower, cell, shape = (origins.new_tensor(part, dtype=torch.float64) for part in grid)
    o, d = (origins.double() - lower) / cell, directions.double() / cell
    inverse = 1 / d
    moving = inverse.isfinite()
    crossings = [
        torch.where(moving[:, k, None], _crossings(o[:, k], inverse[:, k], n), torch.inf)
        for k, n in enumerate(grid[2])
    ]
    inside = torch.where((o >= 0) & (o <= shape), torch.inf, -torch.inf)
    ends = torch.stack([torch.stack([c[:, 0], c[:, -1]]) for c in crossings], dim=-1)
    entries = torch.where(moving, ends.amin(dim=0), -inside).amax(dim=-1)
    exits = torch.where(moving, ends.amax(dim=0), inside).amin(dim=-1)
    start, stop = torch.maximum(near, entries), torch.minimum(far, exits)
    hits = (o + d).isfinite().all(dim=-1) & moving.any(dim=-1) & (start < stop)
    hits = hits & start.isfinite() & stop.isfinite()
    start, stop = (torch.where(hits, bound, 0.0)[:, None] for bound in (start, stop))
    marks = torch.cat([start, *crossings, stop], dim=-1)
    marks = torch.where(hits[:, None], marks, 0.0).clamp(start, stop).sort(dim=-1).values
    index = torch.zeros_like(marks[:, :-1], dtype=torch.int64)
    for k in reversed(range(3)):
        i = _cells_at(marks[:, :-1].contiguous(), crossings[k], o[:, k], d[:, k])
        index = index * grid[2][k] + i
    return index, marks[:, :-1], marks[:, 1:]


def _crossings(o: Tensor, inverse: Tensor, count: int) -> Tensor:
    """Return where rays cross each plane of an axis."""
    planes = torch.arange(count + 1, dtype=o.dtype, device=o.device)
    return (planes - o[:, None]) * inverse[:, None]


def _cells_at(marks: Tensor, crossings: Tensor, o: Tensor, d: Tensor) -> Tensor:
    """Return the cells of an axis behind all planes crossed up to each mark."""
    last = crossings.shape[1] - 2
    forwards = (d > 0)[:, None]
    ordered = torch.where(forwards, crossings, crossings.flip(-1)).contiguous()
    crossed = torch.searchsorted(ordered, marks, right=True)
    i = torch.where(forwards, crossed - 1, last + 1 - crossed)
    resting = o.nan_to_num(0).clamp(0, last).floor().long()
    return torch.where((1 / d).isfinite()[:, None], i, resting[:, None]).clamp(0, last)


def _stretches(
    ray: Tensor, busy: Tensor, starts: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Join occupied cells that follow each other along a ray."""
    joined = torch.zeros_like(busy)
    joined[1:] = busy[1:] & busy[:-1] & (ray[1:] == ray[:-1])
    first = busy & ~joined
    last = busy & ~torch.cat([joined[1:], joined.new_zeros(min(1, len(joined)))])
    return ray[first], starts[first], ends[last]


def _samples(
    ray: Tensor, entry: Tensor, leave: Tensor, step: float, real: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Divide stretches into equal samples."""
    length = leave - entry
    count = (length / step - SLACK).ceil().clamp(min=1)
    of = torch.repeat_interleave(count.long())
    n = torch.arange(len(of), device=ray.device) - (count.cumsum(dim=0) - count)[of]
    starts = entry[of] + length[of] * (n / count[of])
    ends = entry[of] + length[of] * ((n + 1) / count[of])
    return ray[of], ray[:0], starts.to(real), ends.to(real)
