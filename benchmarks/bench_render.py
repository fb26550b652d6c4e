"""Render colour, distance and opacity along 3072 rays of 96 samples, beside ways to do it in torch.

Forward, and with the gradients of densities and colours. The contender to beat is the compiled
form of the best there is in torch, sums in log space. nerfacc's CUDA code runs on no CPU: its
algorithm for padded samples is written out in torch here, and called so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from benchmarks.measure import Contender, Workload, torch_compiled
from geomim.rendering import render_density

Results = tuple[Tensor, Tensor, Tensor]
Render = Callable[[Tensor, Tensor, Tensor, Tensor], Results]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Densities, starts, ends, colours, and gradients of colour, distance and opacity."""

    densities: Tensor
    starts: Tensor
    ends: Tensor
    colours: Tensor
    grads: Results

    def to(self, dtype: torch.dtype) -> "Problem":
        """Return the same problem in another precision."""
        samples = (self.densities, self.starts, self.ends, self.colours)
        colour, distance, opacity = (grad.to(dtype) for grad in self.grads)
        return Problem(*(x.to(dtype) for x in samples), (colour, distance, opacity))


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield forward, and forward with backward."""
    problem = make_problem(rays=5 if tiny else 3072, samples=7 if tiny else 96)
    samples = problem.densities.nbytes
    once = 3 * samples + problem.colours.nbytes + sum(grad.nbytes for grad in problem.grads)
    # Back again, all is read once more and the gradients are written.
    both = 2 * once + samples + problem.colours.nbytes
    for name, run, nbytes in (("forward", forward, once), ("fwd + bwd", backward, both)):
        yield Workload(
            f"render density, {name}",
            tuple(contenders(problem, run)),
            nbytes=nbytes,
            note=" rays of ".join(map(str, problem.densities.shape)) + " samples, 3 channels",
            check=partial(check, problem, run),
        )


def make_problem(*, rays: int, samples: int) -> Problem:
    """Draw everything from one seed; about two thirds of the light are taken."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    edges = draw(rays, samples + 1).cumsum(dim=1)
    densities = 4 / samples * draw(rays, samples)
    starts, ends = edges[:, :-1].contiguous(), edges[:, 1:].contiguous()
    grads = draw(rays, 3), draw(rays), draw(rays)
    return Problem(densities, starts, ends, draw(rays, samples, 3), grads)


def forward(render: Render, problem: Problem) -> tuple[Tensor, ...]:
    """Render."""
    with torch.no_grad():
        return render(problem.densities, problem.starts, problem.ends, problem.colours)


def backward(render: Render, problem: Problem) -> tuple[Tensor, ...]:
    """Render, then differentiate with respect to densities and colours."""
    densities = problem.densities.detach().requires_grad_()
    colours = problem.colours.detach().requires_grad_()
    results = render(densities, problem.starts, problem.ends, colours)
    return torch.autograd.grad(results, (densities, colours), problem.grads)


def contenders(
    problem: Problem, run: Callable[[Render, Problem], tuple[Tensor, ...]]
) -> Iterator[Contender]:
    """Yield the ways to render."""
    compiled = torch_compiled(log_space)
    for name, render in (
        ("torch.compile, log space", compiled),
        ("torch eager, log space", log_space),
        ("torch eager, products", products),
        ("nerfacc's algorithm in torch", nerfacc_padded),
        ("geomim", kernels),
    ):
        yield Contender(name, partial(run, render, problem))


def kernels(densities: Tensor, starts: Tensor, ends: Tensor, colours: Tensor) -> Results:
    """Render by the compiled kernels."""
    seen = render_density(densities, starts, ends, colours)
    return seen.values, seen.distance, seen.opacity


def log_space(densities: Tensor, starts: Tensor, ends: Tensor, colours: Tensor) -> Results:
    """Sum optical depths and take one exponential of each sum."""
    depths = densities * (ends - starts)
    weights = torch.exp(depths - depths.cumsum(dim=1)) * -torch.expm1(-depths)
    return _mixed(weights, starts, ends, colours)


def products(densities: Tensor, starts: Tensor, ends: Tensor, colours: Tensor) -> Results:
    """Multiply what each sample lets through, as NeRF's, NeuS's and MIM4D's code does."""
    alphas = 1 - torch.exp(-densities * (ends - starts))
    clear = torch.cat([torch.ones_like(alphas[:, :1]), 1 - alphas + 1e-7], dim=1)
    return _mixed(alphas * clear.cumprod(dim=1)[:, :-1], starts, ends, colours)


def nerfacc_padded(densities: Tensor, starts: Tensor, ends: Tensor, colours: Tensor) -> Results:
    """Go nerfacc's way: an exclusive sum, alphas by themselves, three sums over samples."""
    depths = densities * (ends - starts)
    alphas = 1 - torch.exp(-depths)
    shifted = torch.cat([torch.zeros_like(depths[:, :1]), depths[:, :-1]], dim=1)
    return _mixed(torch.exp(-shifted.cumsum(dim=1)) * alphas, starts, ends, colours)


def _mixed(weights: Tensor, starts: Tensor, ends: Tensor, colours: Tensor) -> Results:
    colour = (weights[..., None] * colours).sum(dim=1)
    return colour, (weights * (starts + ends) / 2).sum(dim=1), weights.sum(dim=1)


def check(problem: Problem, run: Callable[[Render, Problem], tuple[Tensor, ...]]) -> None:
    """Refuse contenders that are not within single precision of the answer."""
    exact = run(log_space, problem.to(torch.float64))
    for render in (log_space, products, nerfacc_padded, kernels):
        for found, right in zip(run(render, problem), exact, strict=True):
            scale = right.abs().max().item()
            torch.testing.assert_close(found.double(), right, rtol=0, atol=1e-4 * scale)
