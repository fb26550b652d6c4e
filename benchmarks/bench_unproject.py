"""Unproject the depth of six surround-view images to the world, beside torch, kornia and OpenCV.

The size is that of one step of surround-view training: 6 x 256 x 704 in single precision. Before
the clock starts every contender is compared with the formula in float64. Those that stop in the
camera's frame have less to do and are shown for scale; only geomim also says which points are
valid. Bytes are the depth read and the points written, and one a pixel for validity is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import cv2
import numpy as np
import torch
from kornia.geometry.depth import depth_to_3d, depth_to_3d_v2, unproject_meshgrid
from kornia.geometry.linalg import transform_points
from torch import Tensor

from benchmarks.measure import Contender, Workload, torch_compiled
from geomim.cameras import PinholeCamera
from geomim.depth import unproject_depth
from geomim.transforms import RigidTransform

SIZE, TINY_SIZE = (6, 256, 704), (2, 6, 8)
CUDA_SIZES = (SIZE, (192, 256, 704), (96, 900, 1600))
Points = Tensor | list[np.ndarray]
Unproject = Callable[["Problem"], Tensor]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Depth, cameras and their poses, and the same matrices for centres on integers."""

    depth: Tensor
    camera: PinholeCamera
    world_from_cam: RigidTransform
    integer_matrix: Tensor

    def to(self, dtype: torch.dtype) -> "Problem":
        """Return the same problem in another precision."""
        return Problem(
            self.depth.to(dtype),
            self.camera.to(dtype=dtype),
            self.world_from_cam.to(dtype=dtype),
            self.integer_matrix.to(dtype),
        )


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield forward, with backward, and both on CUDA where there is any."""
    for device, sizes in _places(tiny=tiny):
        for size in sizes:
            problem = make_problem(size, device=device)
            yield forward(problem, tiny=tiny)
            yield backward(problem, tiny=tiny)


def _places(*, tiny: bool) -> Iterator[tuple[str, tuple[tuple[int, int, int], ...]]]:
    yield "cpu", (TINY_SIZE if tiny else SIZE,)
    if torch.cuda.is_available():
        yield "cuda", (TINY_SIZE,) if tiny else CUDA_SIZES


def make_problem(size: tuple[int, int, int], *, device: str = "cpu") -> Problem:
    """Draw everything from one seed."""
    generator = torch.Generator().manual_seed(0)
    images, height, width = size
    depth = torch.rand(size, generator=generator) * 50 + 1
    focal = width * (0.7 + 0.2 * torch.rand(images, 2, generator=generator))
    centre = torch.tensor([width / 2, height / 2]) + torch.randn(images, 2, generator=generator)
    pose = RigidTransform.exp(torch.randn(images, 6, generator=generator))
    camera = PinholeCamera(focal, centre, (height, width))
    integer_matrix = camera.matrix()
    integer_matrix[:, :2, 2] -= 0.5
    return Problem(depth.to(device), camera.to(device), pose.to(device), integer_matrix.to(device))


def forward(problem: Problem, *, tiny: bool) -> Workload:
    """Return the points of all pixels."""
    to_world: dict[str, Unproject] = {
        "kornia depth_to_3d, moved": kornia_to_world,
        "torch eager": torch_to_world,
        # Compiling takes longer than all else a test does.
        **({} if tiny else {"torch.compile": _compiled(torch_by_coordinate)}),
        "geomim": geomim_to_world,
    }
    in_camera: dict[str, Callable[[Problem], Points]] = {
        "kornia depth_to_3d_v2 (camera)": lambda p: depth_to_3d_v2(p.depth, p.integer_matrix),
        "kornia v2, cached grid (camera)": _kornia_cached(problem),
        "geomim (camera)": lambda p: unproject_depth(p.depth, p.camera).points,
    }
    if problem.depth.device.type == "cpu":
        in_camera["cv2 depthTo3d (camera)"] = opencv_in_camera

    def check() -> None:
        exact, still = (
            problem.to(torch.float64),
            RigidTransform.identity(
                len(problem.depth), dtype=torch.float64, device=problem.depth.device
            ),
        )
        for contenders, pose in ((to_world, exact.world_from_cam), (in_camera, still)):
            expected = unproject_slowly(exact.depth, exact.camera, pose)
            for name, run in contenders.items():
                _expect_close(name, run(problem), expected)

    return Workload(
        f"unproject {_name(problem)}",
        tuple(
            Contender(name, lambda run=run: run(problem))
            for name, run in {**to_world, **in_camera}.items()
        ),
        nbytes=4 * problem.depth.nbytes,
        device=problem.depth.device.type,
        check=check,
    )


def backward(problem: Problem, *, tiny: bool) -> Workload:
    """Return the points of all pixels, and the gradient of the depth."""
    grad = torch.randn((*problem.depth.shape, 3), generator=torch.Generator().manual_seed(1)).to(
        problem.depth
    )
    learnt = Problem(
        problem.depth.clone().requires_grad_(),
        problem.camera,
        problem.world_from_cam,
        problem.integer_matrix,
    )
    contenders: dict[str, Unproject] = {
        "kornia depth_to_3d, moved": kornia_to_world,
        "torch eager": torch_to_world,
        **({} if tiny else {"torch.compile": _compiled(torch_by_coordinate)}),
        "geomim": geomim_to_world,
    }

    def gradient(run: Unproject) -> Tensor:
        return torch.autograd.grad(run(learnt), learnt.depth, grad)[0]

    def check() -> None:
        exact = problem.to(torch.float64)
        depth = exact.depth.requires_grad_()
        points = unproject_slowly(depth, exact.camera, exact.world_from_cam)
        (expected,) = torch.autograd.grad(points, depth, grad.double())
        for name, run in contenders.items():
            _expect_close(name, gradient(run), expected)

    return Workload(
        f"unproject {_name(problem)}, fwd + bwd",
        tuple(Contender(name, lambda run=run: gradient(run)) for name, run in contenders.items()),
        nbytes=8 * problem.depth.nbytes,
        device=problem.depth.device.type,
        check=check,
    )


def unproject_slowly(depth: Tensor, camera: PinholeCamera, pose: RigidTransform) -> Tensor:
    """Follow the definition: invert every calibration matrix, then move the points."""
    pixels = torch.nn.functional.pad(camera.pixel_grid(), (0, 1), value=1.0)
    rays = torch.einsum("nij,hwj->nhwi", camera.matrix().inverse(), pixels)
    return (
        torch.einsum("nij,nhwj->nhwi", pose.rotation, rays * depth[..., None])
        + (pose.translation[:, None, None])
    )


def geomim_to_world(p: Problem) -> Tensor:
    """Unproject as we do."""
    return unproject_depth(p.depth, p.camera, world_from_cam=p.world_from_cam).points


def kornia_to_world(p: Problem) -> Tensor:
    """Unproject and transform as kornia does."""
    points = depth_to_3d(p.depth[:, None], p.integer_matrix).movedim(1, -1)
    moved = transform_points(p.world_from_cam.matrix(), points.flatten(1, 2))
    return moved.reshape(points.shape)


def torch_to_world(p: Problem) -> Tensor:
    """Unproject by whole-array torch: a stack and a matrix product."""
    x, y = _slopes(p)
    points = torch.stack([x[:, None] * p.depth, y[:, :, None] * p.depth, p.depth], dim=-1)
    moved = (
        points.flatten(1, 2) @ p.world_from_cam.rotation.mT + p.world_from_cam.translation[:, None]
    )
    return moved.reshape(points.shape)


def torch_by_coordinate(
    depth: Tensor, focal: Tensor, centre: Tensor, rotation: Tensor, translation: Tensor
) -> Tensor:
    """Unproject coordinate by coordinate, which a compiler fuses into one loop."""
    height, width = depth.shape[1:]
    u = torch.arange(width, dtype=depth.dtype, device=depth.device) + 0.5
    v = torch.arange(height, dtype=depth.dtype, device=depth.device) + 0.5
    x = ((u - centre[:, :1]) / focal[:, :1])[:, None]
    y = ((v - centre[:, 1:]) / focal[:, 1:])[:, :, None]
    turn, shift = rotation[..., None, None], translation[..., None, None]
    return torch.stack(
        [
            (turn[:, i, 0] * x + turn[:, i, 1] * y + turn[:, i, 2]) * depth + shift[:, i]
            for i in range(3)
        ],
        dim=-1,
    )


def opencv_in_camera(p: Problem) -> list[np.ndarray]:
    """Unproject image by image as OpenCV does, into four channels."""
    maps, matrices = p.depth.numpy(), p.integer_matrix.numpy()
    return [cv2.depthTo3d(one, matrix) for one, matrix in zip(maps, matrices, strict=True)]


def _slopes(p: Problem) -> tuple[Tensor, Tensor]:
    """Return x / z of all columns and y / z of all rows."""
    height, width = p.camera.size
    u = torch.arange(width, dtype=p.depth.dtype, device=p.depth.device) + 0.5
    v = torch.arange(height, dtype=p.depth.dtype, device=p.depth.device) + 0.5
    focal, centre = p.camera.focal, p.camera.principal_point
    return (u - centre[:, :1]) / focal[:, :1], (v - centre[:, 1:]) / focal[:, 1:]


def _compiled(function: Callable[..., Tensor]) -> Unproject:
    compiled = torch_compiled(function)
    return lambda p: compiled(
        p.depth,
        p.camera.focal,
        p.camera.principal_point,
        p.world_from_cam.rotation,
        p.world_from_cam.translation,
    )


def _kornia_cached(problem: Problem) -> Unproject:
    height, width = problem.camera.size
    grid = unproject_meshgrid(height, width, problem.integer_matrix, device=problem.depth.device)
    return lambda p: depth_to_3d_v2(p.depth, p.integer_matrix, xyz_grid=grid)


def _expect_close(name: str, found: Points, expected: Tensor) -> None:
    if isinstance(found, list):
        found = torch.from_numpy(np.stack(found)[..., :3])
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        found.double(), expected, rtol=0, atol=1e-6 * scale, msg=lambda text: f"{name}: {text}"
    )


def _name(problem: Problem) -> str:
    return "x".join(map(str, problem.depth.shape))
