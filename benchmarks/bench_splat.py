"""Project 300,000 lidar points into six cameras of 900 x 1600, and draw them into depth maps.

The cloud is like a spinning lidar's: ring after ring, neighbours beside each other. For the maps,
NumPy draws points in order of depth, or takes minima at indices; torch reduces a scatter; all after
projecting in torch. They give depth alone, geomim also which point is seen and what is valid.
Before the clock starts everyone is checked against float64; a thousandth of the points may lie so
near an edge that single precision has them on its other side.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Contender, Missing, Workload, torch_compiled
from geomim.cameras import PinholeCamera
from geomim.splatting import project_lidar, splat_depth
from geomim.transforms import RigidTransform

NEAR = 0.5


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A cloud and cameras that look all around."""

    points: Tensor
    camera: PinholeCamera
    cam_from_lidar: RigidTransform

    def to(self, dtype: torch.dtype) -> "Problem":
        """Return the same problem in another precision."""
        return Problem(
            self.points.to(dtype), self.camera.to(dtype=dtype), self.cam_from_lidar.to(dtype=dtype)
        )


Projected = tuple[Tensor, Tensor, Tensor]
Project = Callable[[Problem], Projected]
Draw = Callable[[Problem], Tensor]


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield projecting alone, then drawing with a z-buffer."""
    problem = make_problem(*((4, 50, (9, 16)) if tiny else (64, 4688, (900, 1600))))
    count, images = len(problem.points), problem.camera.shape.numel()
    projecting: dict[str, Project] = {
        "torch": project,
        "torch.compile": compiled_project(),
        "geomim": lambda p: project_lidar(
            p.points, p.camera, cam_from_lidar=p.cam_from_lidar, near=NEAR
        ),
    }
    yield Workload(
        f"project {count} points to {images} cameras",
        tuple(Contender(n, lambda run=run: run(problem)) for n, run in projecting.items()),
        nbytes=problem.points.nbytes + images * count * (8 + 4 + 1),
        check=lambda: check_projections(problem, projecting),
    )
    drawing: dict[str, Draw] = {
        "numpy minimum.at": minimum_at,
        "numpy sorted": write_sorted,
        "torch scatter_reduce": scatter_reduce,
        "geomim": lambda p: (
            splat_depth(p.points, p.camera, cam_from_points=p.cam_from_lidar, near=NEAR).depth
        ),
    }
    yield Workload(
        f"z-buffer {count} points, {images} cameras",
        tuple(Contender(n, lambda run=run: run(problem)) for n, run in drawing.items()),
        nbytes=problem.points.nbytes + 4 * images * math.prod(problem.camera.size),
        check=lambda: check_maps(problem, drawing),
    )


def make_problem(rings: int, steps: int, size: tuple[int, int]) -> Problem:
    """Draw everything from one seed: rings of points at 3 to 60 m, cameras of 65 degrees."""
    generator = torch.Generator().manual_seed(0)
    tilt = torch.linspace(-0.4, 0.15, rings)[:, None]
    turn = torch.linspace(0, 2 * math.pi, steps + 1)[:-1].expand(rings, -1)
    reach = 3 + 57 * torch.rand(rings, steps, generator=generator) ** 2
    across = reach * tilt.cos()
    cloud = torch.stack([across * turn.cos(), across * turn.sin(), reach * tilt.sin()], dim=-1)
    heading = torch.arange(6) * math.pi / 3
    cos, sin, zero, one = heading.cos(), heading.sin(), torch.zeros(6), torch.ones(6)
    axes = [
        torch.stack(row, dim=-1)
        for row in ([sin, -cos, zero], [zero, zero, -one], [cos, sin, zero])
    ]
    height, width = size
    camera = PinholeCamera(
        torch.full((6, 2), 0.79 * width), torch.tensor([width / 2, height / 2]).expand(6, 2), size
    )
    shift = torch.randn(6, 3, generator=generator) * 0.3
    return Problem(cloud.reshape(-1, 3), camera, RigidTransform(torch.stack(axes, dim=1), shift))


def project(problem: Problem) -> Projected:
    """Project as one does in torch."""
    pose, camera = problem.cam_from_lidar, problem.camera
    return project_tensors(
        problem.points,
        pose.rotation,
        pose.translation,
        camera.focal,
        camera.principal_point,
        *camera.size,
    )


def compiled_project() -> Project:
    """Return the same, compiled."""
    compiled = torch_compiled(project_tensors)
    return lambda p: compiled(
        p.points,
        p.cam_from_lidar.rotation,
        p.cam_from_lidar.translation,
        p.camera.focal,
        p.camera.principal_point,
        *p.camera.size,
    )


def project_tensors(
    points: Tensor,
    rotation: Tensor,
    translation: Tensor,
    focal: Tensor,
    centre: Tensor,
    height: int,
    width: int,
) -> Projected:
    """Project points into all cameras; 0 where not valid."""
    at = points @ rotation.mT + translation[:, None]
    depth = at[..., 2]
    pixels = focal[:, None] * at[..., :2] / at[..., 2:] + centre[:, None]
    u, v = pixels.unbind(dim=-1)
    valid = (depth > NEAR) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
    return torch.where(valid[..., None], pixels, 0.0), torch.where(valid, depth, 0.0), valid


def scatter_reduce(problem: Problem) -> Tensor:
    """Reduce a scatter in torch."""
    pixels, depth, valid = project(problem)
    height, width = problem.camera.size
    column = pixels[..., 0].long().clamp(max=width - 1)
    row = pixels[..., 1].long().clamp(max=height - 1)
    place = torch.where(valid, row * width + column, height * width)
    nearest = depth.new_full((len(depth), height * width + 1), torch.inf)
    nearest.scatter_reduce_(1, place, depth, "amin")
    nearest = torch.where(nearest.isinf(), 0.0, nearest)[:, :-1]
    return nearest.reshape(-1, height, width)


def minimum_at(problem: Problem) -> Tensor:
    """Take minima at indices, unbuffered."""
    maps = np.full((len(problem.camera.focal), *problem.camera.size), np.inf, np.float32)
    for image, row, column, depth in _landings(problem):
        np.minimum.at(maps[image], (row, column), depth)
    maps[np.isinf(maps)] = 0
    return torch.from_numpy(maps)


def write_sorted(problem: Problem) -> Tensor:
    """Write the farthest first, so that the nearest stays."""
    maps = np.zeros((len(problem.camera.focal), *problem.camera.size), np.float32)
    for image, row, column, depth in _landings(problem):
        order = np.argsort(-depth)
        maps[image, row[order], column[order]] = depth[order]
    return torch.from_numpy(maps)


def _landings(problem: Problem) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the pixels and depths of each camera's points."""
    height, width = problem.camera.size
    pixels, depth, valid = (part.numpy() for part in project(problem))
    for image, seen in enumerate(valid):
        column, row = pixels[image, seen].astype(np.int64).T
        yield image, row.clip(max=height - 1), column.clip(max=width - 1), depth[image, seen]


def check_projections(problem: Problem, ways: dict[str, Project]) -> None:
    """Refuse contenders that are not within single precision of float64."""
    pixels, depth, valid = project(problem.to(torch.float64))
    for name, run in ways.items():
        try:
            found = run(problem)
        except Missing:
            continue
        both, wrong = found[2] & valid, (found[2] != valid).sum()
        if wrong > 1e-3 * valid.sum():
            raise AssertionError(f"{name} must see what float64 sees, got {int(wrong)} others")
        torch.testing.assert_close(found[0][both].double(), pixels[both], atol=1e-2, rtol=0)
        torch.testing.assert_close(found[1][both].double(), depth[both], atol=1e-4, rtol=0)


def check_maps(problem: Problem, ways: dict[str, Draw]) -> None:
    """Refuse maps that differ from float64's."""
    exact = scatter_reduce(problem.to(torch.float64))
    for name, run in ways.items():
        wrong = ((run(problem).double() - exact).abs() > 1e-3).sum()
        if wrong > 1e-3 * exact.count_nonzero():
            raise AssertionError(f"{name} must agree with float64, got {int(wrong)} other pixels")
