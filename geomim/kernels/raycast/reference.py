"""Define what casting rays means, in plain torch; ``cpu.py`` does the same in one loop."""

import torch
from torch import Tensor

_BOX, _SPHERE = 0, 1


def cast_rays(
    origins: Tensor, directions: Tensor, kind: Tensor, unit_from_world: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance, primitive and normal of the nearest hits; a miss is 0, -1 and 0."""
    start, along = origins.double(), directions.double()
    finite = (start + along).isfinite().all(-1)
    best = torch.full_like(start[:, 0], torch.inf)
    hit = torch.full_like(best, -1, dtype=torch.int64)
    normal = torch.zeros_like(start)
    for p, (shape, unit) in enumerate(zip(kind.tolist(), unit_from_world.double(), strict=True)):
        o = start @ unit[:, :3].T + unit[:, 3]
        d = along @ unit[:, :3].T
        s, unit_normal = _first_positive(shape, o, d)
        nearer = finite & (s > 0) & (s < best)
        best = torch.where(nearer, s, best)
        hit = torch.where(nearer, p, hit)
        normal = torch.where(nearer[:, None], unit_normal @ unit[:, :3], normal)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    away = (normal * along).sum(-1, keepdim=True) > 0
    normal = torch.where(away, -normal, normal)
    return (
        torch.where(hit >= 0, best, 0).to(origins.dtype),
        hit,
        normal.to(origins.dtype),
    )


def _first_positive(shape: int, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parameter of the first crossing and its normal, both in unit coordinates."""
    if shape == _BOX:
        intervals = [_slab(o[:, k], d[:, k]) for k in range(3)]
    elif shape == _SPHERE:
        intervals = [_ball(o, d)]
    else:
        intervals = [_ball(o[:, :2], d[:, :2]), _slab(o[:, 2], d[:, 2])]
    entry, entered = torch.stack([low for low, _ in intervals]).max(dim=0)
    leave, left = torch.stack([high for _, high in intervals]).min(dim=0)
    s = torch.where(entry > 0, entry, leave)
    s = torch.where((entry <= leave) & s.isfinite(), s, -1.0)
    surface = torch.where(entry > 0, entered, left)
    normals = torch.stack(_normals(shape, o + s[:, None] * d))
    return s, normals[surface, torch.arange(len(s), device=s.device)]


def _normals(shape: int, at: Tensor) -> list[Tensor]:
    """Normal of each surface, in the order of the intervals."""
    axes = torch.eye(3, dtype=at.dtype, device=at.device)
    if shape == _BOX:
        return [axis.expand_as(at) for axis in axes]
    if shape == _SPHERE:
        return [at]
    return [at * (axes[0] + axes[1]), axes[2].expand_as(at)]


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    moving = d != 0
    step = torch.where(moving, d, 1.0)
    first, second = (-1 - o) / step, (1 - o) / step
    return _or_whole_line(torch.minimum(first, second), torch.maximum(first, second), moving, o**2)


def _ball(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    a = (d * d).sum(-1)
    moving = a != 0
    a = torch.where(moving, a, 1.0)
    nearest = -(o * d).sum(-1) / a
    inside = 1 - (o + nearest[:, None] * d).square().sum(-1)
    half = (inside.clamp(min=0) / a).sqrt()
    touched = inside >= 0
    low = torch.where(touched, nearest - half, torch.inf)
    high = torch.where(touched, nearest + half, -torch.inf)
    return _or_whole_line(low, high, moving, o.square().sum(-1))


def _or_whole_line(
    low: Tensor, high: Tensor, moving: Tensor, squared: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the ray does not move, it is inside for good or never."""
    resting = torch.where(squared <= 1, torch.inf, -torch.inf)
    return torch.where(moving, low, -resting), torch.where(moving, high, resting)
