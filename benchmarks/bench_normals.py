"""Surface normals of six depth maps, beside torch and kornia.

The size is that of workload A, 6 x 256 x 704 in single precision. Before the clock starts, normals
are compared with float64 ones by the same differences, away from the border. kornia's come from
Sobel differences, which are those of a plane as well: on a slanted plane all three agree, and there
they are compared. Bytes are the depth read and the normals written.
"""

from collections.abc import Callable, Iterator

import torch
from kornia.geometry.depth import depth_to_normals
from torch import Tensor

from benchmarks.bench_unproject import Problem, make_problem
from benchmarks.measure import Contender, Workload, torch_compiled
from geomim.depth import normals_from_depth
from geomim.kernels.normals import reference

SIZE, TINY_SIZE = (6, 256, 704), (2, 6, 8)
CUDA_SIZES = (SIZE, (192, 256, 704), (96, 900, 1600))
NEAREST = 1e-6
Normals = Callable[[Problem], Tensor]


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield forward and with backward, and both on CUDA where there is any."""
    places = [("cpu", (TINY_SIZE if tiny else SIZE,))]
    if torch.cuda.is_available():
        places.append(("cuda", (TINY_SIZE,) if tiny else CUDA_SIZES))
    for device, sizes in places:
        for size in sizes:
            problem = slanted(make_problem(size, device=device))
            yield forward(problem, tiny=tiny)
            yield backward(problem, tiny=tiny)


def slanted(problem: Problem) -> Problem:
    """Put a slanted plane before every camera: ``(0.2, -0.3, 1) . x = 5``."""
    grid = problem.camera.pixel_grid()
    focal, centre = problem.camera.focal[:, None, None], problem.camera.principal_point
    x, y = ((grid - centre[:, None, None]) / focal).unbind(dim=-1)
    depth = 5 / (0.2 * x - 0.3 * y + 1)
    return Problem(depth, problem.camera, problem.world_from_cam, problem.integer_matrix)


def contenders(*, tiny: bool) -> dict[str, Normals]:
    """Return who computes normals."""
    compiled = torch_compiled(by_torch)
    return {
        "kornia depth_to_normals": by_kornia,
        "torch eager": lambda p: by_torch(p.depth, p.camera.focal, p.camera.principal_point),
        # Compiling takes longer than all else a test does.
        **(
            {}
            if tiny
            else {
                "torch.compile": lambda p: compiled(
                    p.depth, p.camera.focal, p.camera.principal_point
                )
            }
        ),
        "geomim": lambda p: normals_from_depth(p.depth, p.camera).normals,
    }


def by_kornia(p: Problem) -> Tensor:
    """Compute normals as kornia does; they look away from the camera."""
    return depth_to_normals(p.depth[:, None], p.integer_matrix).movedim(1, -1)


def by_torch(depth: Tensor, focal: Tensor, centre: Tensor) -> Tensor:
    """Compute normals by the definition."""
    return reference.normals(depth, focal, centre, nearest=NEAREST)[0]


def forward(problem: Problem, *, tiny: bool) -> Workload:
    """Return the normals of all pixels."""
    runs = contenders(tiny=tiny)

    def check() -> None:
        right = torch.nn.functional.normalize(
            torch.tensor([-0.2, 0.3, -1.0], dtype=torch.float64, device=problem.depth.device), dim=0
        )
        for name, run in runs.items():
            inner = run(problem)[:, 2:-2, 2:-2].double()
            facing = torch.where((inner @ right)[..., None] < 0, -inner, inner)
            off = (facing - right).norm(dim=-1)
            # Differences of neighbours cancel: single precision leaves three digits or so.
            if not off.median() < 2e-3:
                raise AssertionError(f"{name} is off by {off.median():.1e}")

    return Workload(
        f"normals {_name(problem)}",
        tuple(Contender(name, lambda run=run: run(problem)) for name, run in runs.items()),
        nbytes=4 * problem.depth.nbytes,
        device=problem.depth.device.type,
        check=check,
    )


def backward(problem: Problem, *, tiny: bool) -> Workload:
    """Return the normals of all pixels, and the gradient of the depth."""
    grad = torch.randn((*problem.depth.shape, 3), generator=torch.Generator().manual_seed(1))
    grad = grad.to(problem.depth)
    learnt = Problem(
        problem.depth.clone().requires_grad_(),
        problem.camera,
        problem.world_from_cam,
        problem.integer_matrix,
    )
    runs = contenders(tiny=tiny)

    def gradient(run: Normals) -> Tensor:
        return torch.autograd.grad(run(learnt), learnt.depth, grad)[0]

    def check() -> None:
        exact = problem.to(torch.float64)
        depth = exact.depth.requires_grad_()
        normals = by_torch(depth, exact.camera.focal, exact.camera.principal_point)
        (expected,) = torch.autograd.grad(normals, depth, grad.double())
        error = (gradient(runs["geomim"]) - expected).abs().median()
        if not error < 2e-3 * expected.abs().median():
            raise AssertionError(f"geomim's gradient is off by {error:.1e}")

    return Workload(
        f"normals {_name(problem)}, fwd + bwd",
        tuple(Contender(name, lambda run=run: gradient(run)) for name, run in runs.items()),
        nbytes=8 * problem.depth.nbytes,
        device=problem.depth.device.type,
        check=check,
    )


def _name(problem: Problem) -> str:
    return "x".join(map(str, problem.depth.shape))
