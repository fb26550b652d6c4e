"""Walk rays through grids of cells, a twentieth of them occupied, and clip rays to a box.

Nobody's compiled traversal runs on a CPU here: Amanatides and Woo's algorithm is done in torch with
all rays one step at a time, as one would without a kernel, and by sorting every plane's crossing,
which is geomim's reference. The latter takes gigabytes for the larger grid and is left out there.
Before the clock starts, the length that each ray has in each cell is compared with the reference's
in float64, and spans with those of the reference in float64. kornia clips no rays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

from benchmarks.measure import Contender, Workload
from geomim.grids import VoxelGrid
from geomim.kernels.selection import use_kernels
from geomim.rays import Rays, clip_rays_to_box
from geomim.traversal import RaySamples, VoxelSegments, samples_in_occupied, traverse_voxels

# Name, number of rays, cells along x, y, z, and whether sorting all crossings fits into memory.
SIZES = (
    ("3072 rays, 180x180x5", 3072, (180, 180, 5), True),
    ("100k rays, 128x128x128", 100_000, (128, 128, 128), False),
)
TINY_SIZES = (("20 rays, 7x6x5", 20, (7, 6, 5), True),)
OCCUPIED = 0.05
Walk = Callable[["Problem"], VoxelSegments]
Span = tuple[Tensor, Tensor, Tensor]
Results = TypeVar("Results")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Rays, and a grid of cells of 1 m, some of them occupied."""

    rays: Rays
    grid: VoxelGrid
    occupied: Tensor


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield segments for all sizes, samples where the reference can follow, and clipping."""
    for name, rays, shape, sortable in TINY_SIZES if tiny else SIZES:
        problem = make_problem(rays, shape)
        yield walking(name, problem, sortable=sortable)
        if sortable:
            yield sampling(name, problem)
        yield clipping(problem)


def make_problem(count: int, shape: tuple[int, int, int]) -> Problem:
    """Draw everything from one seed: rays from in and around the grid towards points in it."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor(shape)
    origins = (torch.rand(count, 3, generator=generator) * 2 - 0.5) * size
    targets = torch.rand(count, 3, generator=generator) * size
    occupied = torch.rand(*shape[::-1], generator=generator) < OCCUPIED
    grid = VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shape)
    return Problem(Rays.along(origins, targets - origins), grid, occupied)


def walking(name: str, problem: Problem, *, sortable: bool) -> Workload:
    """Find the occupied cells of every ray."""
    runs: dict[str, Walk] = {"torch eager, step by step": step_by_step, "geomim": kernels}
    if sortable:
        runs["torch eager, all planes sorted"] = lambda problem: by_reference(
            lambda: kernels(problem)
        )
    segments = kernels(problem)
    return Workload(
        f"traverse {name}",
        tuple(Contender(who, lambda run=run: run(problem)) for who, run in runs.items()),
        nbytes=traffic(problem, segments),
        note=f"{len(segments.ray)} segments in occupied cells",
        check=lambda: compare_walks(problem, runs),
    )


def sampling(name: str, problem: Problem) -> Workload:
    """Divide the occupied parts of every ray into samples of at most half a cell."""

    def run() -> RaySamples:
        return samples_in_occupied(problem.rays, problem.grid, problem.occupied, step=0.5)

    samples = run()
    return Workload(
        f"sample {name}",
        (
            Contender("torch eager, all planes sorted", lambda: by_reference(run)),
            Contender("geomim", run),
        ),
        nbytes=traffic(problem, samples),
        note=f"{len(samples.ray)} samples",
        check=lambda: torch.testing.assert_close(tuple(samples), tuple(by_reference(run))),
    )


def clipping(problem: Problem) -> Workload:
    """Clip every ray to the grid's box."""
    compiled = torch.compile(span_of_slabs)
    runs: dict[str, Callable[[Problem], Span]] = {
        "torch eager": span_of_slabs,
        "torch.compile": compiled,
        "geomim": lambda problem: clip_rays_to_box(
            problem.rays, problem.grid.lower, problem.grid.upper
        ),
    }
    rays = len(problem.rays.valid)
    return Workload(
        f"clip {rays} rays to a box",
        tuple(Contender(who, lambda run=run: run(problem)) for who, run in runs.items()),
        nbytes=2 * problem.rays.origins.nbytes + 9 * rays,
        check=lambda: compare_spans(problem, runs),
    )


def by_reference(run: Callable[[], Results]) -> Results:
    """Run by sorting the crossings of all planes."""
    with use_kernels("reference"):
        return run()


def kernels(problem: Problem) -> VoxelSegments:
    """Walk by the compiled kernels."""
    return traverse_voxels(problem.rays, problem.grid, problem.occupied)


def step_by_step(problem: Problem) -> VoxelSegments:
    """Walk all rays one step at a time: Amanatides and Woo 1987, as their paper has it."""
    near, far, valid = span_of_slabs(problem)
    (ray,) = valid.nonzero(as_tuple=True)
    start, far, d = near[ray], far[ray], problem.rays.directions[ray]
    o = problem.rays.origins[ray]
    size = torch.tensor(problem.grid.shape)
    cell = (o + start[:, None] * d).floor().clamp(min=torch.zeros(3), max=size - 1).long()
    step = d.sign().long()
    crossing = torch.where(d == 0, torch.inf, (cell + (step > 0) - o) / d)
    every = torch.where(d == 0, torch.inf, 1 / d.abs())
    stride = torch.tensor([1, size[0], size[0] * size[1]])
    flat = problem.occupied.flatten()
    found: list[tuple[Tensor, ...]] = []
    while len(ray):
        crossed, axis = crossing.min(dim=1)
        end, voxel = torch.minimum(crossed, far), (cell * stride).sum(dim=1)
        hit = flat[voxel] & (end > start)
        found.append((ray[hit], voxel[hit], start[hit], end[hit]))
        passed = torch.nn.functional.one_hot(axis, 3) > 0
        crossing, cell = crossing + every.where(passed, 0.0), cell + step.where(passed, 0)
        # Those that have left are taken out; crossings that were added up may lead out before.
        stay = (end < far) & ((cell >= 0) & (cell < size)).all(dim=1)
        ray, start, far = ray[stay], end[stay], far[stay]
        crossing, every, cell, step = crossing[stay], every[stay], cell[stay], step[stay]
    return pack(found, rays=len(valid))


def pack(found: list[tuple[Tensor, ...]], *, rays: int) -> VoxelSegments:
    """Put what was found step by step in the order of rays."""
    ray, voxel, starts, ends = (torch.cat(parts) for parts in zip(*found, strict=True))
    ray, order = ray.sort(stable=True)
    offsets = torch.nn.functional.pad(torch.bincount(ray, minlength=rays).cumsum(0), (1, 0))
    complete = torch.ones(rays, dtype=torch.bool)
    return VoxelSegments(offsets, ray, voxel[order], starts[order], ends[order], complete)


def span_of_slabs(problem: Problem) -> Span:
    """Clip rays to the grid as is usual, with no thought for rays that are parallel to a face."""
    o, d = problem.rays.origins, problem.rays.directions
    first, last = (
        (o.new_tensor(problem.grid.lower) - o) / d,
        (o.new_tensor(problem.grid.upper) - o) / d,
    )
    near = torch.minimum(first, last).amax(dim=-1).clamp(min=0)
    far = torch.maximum(first, last).amin(dim=-1)
    valid = near < far
    return torch.where(valid, near, 0.0), torch.where(valid, far, 0.0), valid


def compare_walks(problem: Problem, runs: dict[str, Walk]) -> None:
    """Refuse walks that give a ray another length in a cell than float64 does."""
    double = Problem(problem.rays.to(dtype=torch.float64), problem.grid, problem.occupied)
    expected = kernels(double)
    for who, run in runs.items():
        found = run(problem)
        places = torch.cat([s.ray * problem.occupied.numel() + s.voxel for s in (found, expected)])
        _, place = places.unique(return_inverse=True)
        missing = torch.cat([(found.ends - found.starts).double(), expected.starts - expected.ends])
        off = torch.zeros(len(place)).double().index_add(0, place, missing).abs().max().item()
        # Crossings that are added up in single precision drift by millimetres.
        if not off < (1e-4 if who == "geomim" else 1e-2):
            raise AssertionError(f"{who} is {off} m off")


def compare_spans(problem: Problem, runs: dict[str, Callable[[Problem], Span]]) -> None:
    """Refuse spans that are not within single precision of float64's."""
    double = Problem(problem.rays.to(dtype=torch.float64), problem.grid, problem.occupied)
    near, far, _ = span_of_slabs(double)
    for run in runs.values():
        found_near, found_far, _ = run(problem)
        length, expected = (found_far - found_near).double(), far - near
        torch.testing.assert_close(length, expected, atol=2e-3, rtol=1e-4)


def traffic(problem: Problem, results: VoxelSegments | RaySamples) -> int:
    """Count the bytes of rays, occupancy and results, each once."""
    rays = problem.rays
    inputs = (rays.origins, rays.directions, rays.valid, problem.occupied)
    return sum(part.nbytes for part in (*inputs, *results))
