"""Sample a volume trilinearly at scattered and at ray-coherent points, beside torch's grid_sample.

The size is that of one step of volume rendering: 3072 rays of 96 samples through 180 x 180 x 5
cells of 32 channels. Before the clock starts every contender is checked against grid_sample in
float64. Bringing points to grid_sample's coordinates counts, and takes little of its time.
torch.compile has nothing to add: it calls the same grid_sample in three dimensions.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from benchmarks.measure import Contender, Workload
from geomim.kernels.trilinear.op import trilinear

Sample = Callable[[Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A volume (b, c, z, y, x), points in index coordinates, and a gradient of the values."""

    volume: Tensor
    points: Tensor
    grad: Tensor

    def to(self, dtype: torch.dtype) -> "Problem":
        """Return the same problem in another precision."""
        return Problem(self.volume.to(dtype), self.points.to(dtype), self.grad.to(dtype))


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield forward, with backward, and with double backward, for both kinds of points."""
    for name, scatter in (("random", scattered_points), ("rays", ray_points)):
        problem = make_problem(scatter, tiny=tiny)
        for passes, run in (
            ("forward", forward),
            ("fwd + bwd", backward),
            ("double bwd", double_backward),
        ):
            yield Workload(
                f"trilinear {name}, {passes}",
                tuple(contenders(problem, run)),
                nbytes=traffic(problem, run),
                note=f"{tuple(problem.volume.shape)} at {problem.points.shape[1]} points",
                check=partial(check, problem, run),
            )


def make_problem(scatter: Callable[..., Tensor], *, tiny: bool) -> Problem:
    """Draw everything from one seed."""
    generator = torch.Generator().manual_seed(0)
    z, y, x, channels, rays, samples = (2, 6, 7, 4, 5, 4) if tiny else (5, 180, 180, 32, 3072, 96)
    volume = torch.randn(1, channels, z, y, x, generator=generator)
    points = scatter((x, y, z), rays, samples, generator)
    return Problem(volume, points, torch.randn(1, rays * samples, channels, generator=generator))


def scattered_points(
    size: tuple[int, int, int], rays: int, samples: int, generator: torch.Generator
) -> Tensor:
    """Return points all over the volume, in no order."""
    return torch.rand(1, rays * samples, 3, generator=generator) * torch.tensor(size)


def ray_points(
    size: tuple[int, int, int], rays: int, samples: int, generator: torch.Generator
) -> Tensor:
    """Return samples along level rays from the middle outwards, ray after ray."""
    angle = torch.rand(rays, 1, generator=generator) * 2 * math.pi
    height = torch.rand(rays, 1, generator=generator) - 0.5
    reach = torch.linspace(0.02, 0.48, samples)
    along = torch.stack(
        [angle.cos() * reach, angle.sin() * reach, height.expand(-1, samples)], dim=-1
    )
    return ((along + 0.5) * torch.tensor(size)).reshape(1, -1, 3)


def forward(sample: Sample, problem: Problem) -> tuple[Tensor, ...]:
    """Sample."""
    return (sample(problem.volume, problem.points),)


def backward(sample: Sample, problem: Problem) -> tuple[Tensor, ...]:
    """Sample, then differentiate with respect to volume and points."""
    volume, points = _leaves(problem)
    return torch.autograd.grad(sample(volume, points), (volume, points), problem.grad)


def double_backward(sample: Sample, problem: Problem) -> tuple[Tensor, ...]:
    """Sample, differentiate by the points, and differentiate a loss on that, as for an SDF."""
    volume, points = _leaves(problem)
    (slopes,) = torch.autograd.grad(sample(volume, points), points, problem.grad, create_graph=True)
    return torch.autograd.grad(slopes.square().sum(), (volume, points))


def _leaves(problem: Problem) -> tuple[Tensor, Tensor]:
    volume = problem.volume.detach().requires_grad_()
    return volume, problem.points.detach().requires_grad_()


def contenders(
    problem: Problem, run: Callable[[Sample, Problem], tuple[Tensor, ...]]
) -> Iterator[Contender]:
    """Yield torch's sampling and ours, each in both memory layouts."""
    together = Problem(
        problem.volume.to(memory_format=torch.channels_last_3d), problem.points, problem.grad
    )
    yield Contender("grid_sample", lambda: run(grid_sample, problem))
    yield Contender("grid_sample, channels last", lambda: run(grid_sample, together))
    yield Contender("geomim, channels first", lambda: run(kernels, problem))
    yield Contender("geomim", lambda: run(kernels, together))


def grid_sample(volume: Tensor, points: Tensor) -> Tensor:
    """Sample as torch does."""
    size = points.new_tensor(volume.shape[:1:-1])
    normalised = (points / size * 2 - 1)[:, :, None, None]
    values = torch.nn.functional.grid_sample(volume, normalised, align_corners=False)
    return values[..., 0, 0].mT


def kernels(volume: Tensor, points: Tensor) -> Tensor:
    """Sample by the compiled kernels."""
    return trilinear(volume.movedim(1, -1), points)[0].squeeze(2)


def check(problem: Problem, run: Callable[[Sample, Problem], tuple[Tensor, ...]]) -> None:
    """Refuse contenders that are not within single precision of the answer."""
    exact = run(grid_sample, problem.to(torch.float64))
    for sample in (grid_sample, kernels):
        for found, right in zip(run(sample, problem), exact, strict=True):
            scale = right.abs().max().item()
            torch.testing.assert_close(found.double(), right, rtol=0, atol=2e-4 * scale)


def traffic(problem: Problem, run: Callable[[Sample, Problem], tuple[Tensor, ...]]) -> int:
    """Count the bytes that must move if each pass reads and writes everything once."""
    volume, points, values = problem.volume.nbytes, problem.points.nbytes, problem.grad.nbytes
    once = volume + points + values
    if run is forward:
        return once
    return 2 * once + volume + points if run is backward else 4 * once + volume + points
