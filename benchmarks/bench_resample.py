"""Place 64 samples a ray by the weights of 96 intervals, on 3072 rays, beside ways in torch.

The sum of weights, the search and the interpolation all count; drawing random numbers does not.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Contender, Workload, torch_compiled
from geomim.kernels.resampling.op import invert_cdf

Problem = tuple[Tensor, Tensor, Tensor]
Place = Callable[[Tensor, Tensor, Tensor], Tensor]


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield weights all over the ray, and those of a surface."""
    rays, intervals, samples = (5, 7, 6) if tiny else (3072, 96, 64)
    for name, sharpness in (("broad", 1.0), ("peaked", 40.0)):
        problem = make_problem(rays, intervals, samples, sharpness=sharpness)
        places = problem[2]
        yield Workload(
            f"resample, {name}",
            tuple(contenders(problem)),
            nbytes=sum(x.nbytes for x in (*problem, places)),
            note=f"{rays} rays, {intervals} intervals, {samples} samples",
            check=partial(check, problem),
        )


def make_problem(rays: int, intervals: int, samples: int, *, sharpness: float) -> Problem:
    """Draw edges, weights and stratified fractions from one seed."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(rays, intervals + 1, generator=generator).cumsum(dim=1)
    heights = torch.rand(rays, intervals, generator=generator)
    weights = (sharpness * heights).softmax(dim=1)
    moved = torch.rand(rays, samples, generator=generator)
    return edges, weights, (torch.arange(samples) + moved) / samples


def contenders(problem: Problem) -> Iterator[Contender]:
    """Yield the ways to place."""
    yield Contender("torch.compile, search", partial(torch_compiled(search), *problem))
    yield Contender("torch eager, search", partial(search, *problem))
    yield Contender("geomim", partial(kernel, *problem))


def kernel(edges: Tensor, weights: Tensor, fractions: Tensor) -> Tensor:
    """Place by the compiled kernel."""
    return invert_cdf(edges, weights, fractions)[0]


def search(edges: Tensor, weights: Tensor, fractions: Tensor) -> Tensor:
    """Search and gather, as NeRF's ``sample_pdf`` does."""
    density = weights / weights.sum(dim=1, keepdim=True)
    sums = torch.nn.functional.pad(density.cumsum(dim=1), (1, 0))
    behind = torch.searchsorted(sums, fractions, right=True).clamp(1, edges.shape[1] - 1)
    low, high, start, end = (
        x.gather(1, index) for x in (sums, edges) for index in (behind - 1, behind)
    )
    mass = high - low
    share = (fractions - low) / torch.where(mass > 0, mass, 1.0)
    return start + (end - start) * share.clamp(0, 1)


def check(problem: Problem) -> None:
    """Refuse contenders that miss both the right place and the right fraction of the weight.

    Where there is hardly any weight a place tells little, and where there is much the fraction.
    """
    edges, weights, fractions = (x.double() for x in problem)
    exact = search(edges, weights, fractions)
    sums = torch.nn.functional.pad(weights.cumsum(dim=1), (1, 0)) / weights.sum(1, keepdim=True)
    for place in (search, kernel):
        places = place(*problem).double()
        interval = torch.searchsorted(edges, places).clamp(1, edges.shape[1] - 1)
        low, high, start, end = (
            x.gather(1, index) for x in (sums, edges) for index in (interval - 1, interval)
        )
        reached = low + (high - low) * (places - start) / (end - start)
        off = torch.minimum((places - exact).abs(), (reached - fractions).abs())
        torch.testing.assert_close(off, torch.zeros_like(off), rtol=0, atol=2e-5)
