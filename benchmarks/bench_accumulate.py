"""Carry ten lidar sweeps into one frame, beside nuScenes' devkit, torch and kornia.

300,000 points of five columns, of which the first three move; every point is told how old it is.
The devkit's loop is that of its ``from_file_multisweep`` over its own point cloud class, without
files and without dropping near points; copying a sweep stands for reading it, since the class works
in place. kornia and torch's matrix product need sweeps of one length. Matrices are composed anew by
all, from poses in float64. Before the clock starts everyone is checked against float64.

With boxes, points inside them move with them: the devkit asks ``points_in_box`` sweep by sweep.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Contender, Missing, Workload, torch_compiled
from geomim.accumulation import Sweeps, accumulate_sweeps
from geomim.kernels.selection import use_kernels
from geomim.tracks import TrackedBoxes
from geomim.trajectories import Trajectory
from geomim.transforms import RigidTransform

START_US = 1532402927647951
STEP_US = 50_000
SIZE_M = (4.5, 1.9, 1.7)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Points (n, 5) sweep after sweep, where the sensor was, and boxes if there are any."""

    points: Tensor
    times_us: Tensor
    world_from_sensor: RigidTransform
    boxes: TrackedBoxes

    @property
    def sweeps(self) -> int:
        """The number of sweeps, all of one length."""
        return len(self.times_us)

    def matrices(self) -> Tensor:
        """Return the ways into the last sweep's frame."""
        return (self.world_from_sensor[-1].inverse() @ self.world_from_sensor).matrix()

    def seconds(self) -> Tensor:
        """Return how long after the last sweep each one was."""
        return (self.times_us - self.times_us[-1]).double() * 1e-6


Accumulate = Callable[[Problem], tuple[Tensor, Tensor]]


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield sweeps through a world at rest, and among boxes that drive."""
    sweeps, count = (3, 40) if tiny else (10, 30_000)
    still = make_problem(sweeps, count, boxes=0)
    yield workload(
        f"accumulate {sweeps} x {count}",
        still,
        {
            "nuscenes-devkit": devkit,
            "torch gather + einsum": gather,
            "torch.compile gather": compiled_gather(),
            "torch bmm": multiply,
            "kornia transform_points": kornia_points,
            "geomim": accumulate,
        },
    )
    driven = make_problem(sweeps, count, boxes=2 if tiny else 50)
    yield workload(
        f"accumulate {sweeps} x {count}, {driven.boxes.count} boxes",
        driven,
        {
            "nuscenes-devkit": devkit_with_boxes,
            "geomim reference": by_reference,
            "geomim": accumulate,
        },
    )


def workload(name: str, problem: Problem, ways: dict[str, Accumulate]) -> Workload:
    """Return a workload; the time of a point is written, its other columns stay where they are."""
    columns = 3 + 3 + 1
    return Workload(
        name,
        tuple(Contender(n, lambda run=run: run(problem)) for n, run in ways.items()),
        nbytes=columns * problem.points[:, 0].nbytes,
        check=lambda: check(problem, ways),
    )


def make_problem(sweeps: int, count: int, *, boxes: int) -> Problem:
    """Draw everything from one seed: a drive at 10 m/s, points around it, boxes among them."""
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([make_sweep(count, generator) for _ in range(sweeps)])
    times_us = START_US + torch.arange(sweeps) * STEP_US
    velocity = torch.tensor([10.0, 0, 0, 0, 0, 0.2], dtype=torch.float64)
    seconds = torch.arange(sweeps, dtype=torch.float64) * STEP_US * 1e-6
    start = torch.randn(boxes, 1, 6, generator=generator) * torch.tensor([20.0, 20, 0, 0, 0, 1.5])
    speed = torch.randn(boxes, 1, 6, generator=generator) * torch.tensor([8.0, 0, 0, 0, 0, 0.3])
    start, speed = (RigidTransform.exp(start.double()), speed.double() * seconds[:, None])
    tracks = TrackedBoxes(
        Trajectory(times_us.expand(boxes, -1), start @ RigidTransform.exp(speed)),
        torch.tensor(SIZE_M, dtype=torch.float64).expand(boxes, 3),
        torch.arange(boxes),
    )
    return Problem(points, times_us, RigidTransform.exp(velocity * seconds[:, None]), tracks)


def make_sweep(count: int, generator: torch.Generator) -> Tensor:
    """Return a spinning lidar's points (count, 5), at 3 to 60 m, in the order of its turning."""
    turn = torch.linspace(0, 2 * math.pi, count)
    tilt = torch.linspace(-0.4, 0.15, 32).repeat(-(-count // 32))[:count]
    reach = 3 + 57 * torch.rand(count, generator=generator) ** 2
    across = reach * tilt.cos()
    intensity, age = torch.rand(2, count, generator=generator)
    columns = [across * turn.cos(), across * turn.sin(), reach * tilt.sin(), intensity, age]
    return torch.stack(columns, dim=-1)


def accumulate(problem: Problem) -> tuple[Tensor, Tensor]:
    """Accumulate as a user of geomim would."""
    count = len(problem.points) // problem.sweeps
    sweeps = Sweeps(
        problem.points[:, :3],
        torch.arange(problem.sweeps + 1) * count,
        problem.times_us,
        problem.world_from_sensor,
    )
    found = accumulate_sweeps(
        sweeps,
        target_time_us=int(problem.times_us[-1]),
        world_from_target=problem.world_from_sensor[-1],
        boxes=problem.boxes,
    )
    return found.points, found.seconds


def by_reference(problem: Problem) -> tuple[Tensor, Tensor]:
    """Accumulate in plain torch."""
    with use_kernels("reference"):
        return accumulate(problem)


def gather(problem: Problem) -> tuple[Tensor, Tensor]:
    """Fetch a matrix for every point."""
    return gather_tensors(problem.points, problem.matrices().float(), problem.seconds().float())


def gather_tensors(points: Tensor, matrices: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
    """Fetch a matrix for every point, as ragged sweeps need."""
    sweep = torch.arange(len(matrices)).repeat_interleave(len(points) // len(matrices))
    matrix = matrices[sweep]
    moved = torch.einsum("nij,nj->ni", matrix[:, :3, :3], points[:, :3]) + matrix[:, :3, 3]
    return moved, seconds[sweep]


def compiled_gather() -> Accumulate:
    """Return the same, compiled but for the few matrices."""
    compiled = torch_compiled(gather_tensors)
    return lambda p: compiled(p.points, p.matrices().float(), p.seconds().float())


def multiply(problem: Problem) -> tuple[Tensor, Tensor]:
    """Multiply sweep by sweep, in one call."""
    matrices, points = problem.matrices().float(), _by_sweep(problem)
    moved = torch.baddbmm(matrices[:, None, :3, 3], points, matrices[:, :3, :3].mT)
    return moved.reshape(-1, 3), _ages(problem)


def kornia_points(problem: Problem) -> tuple[Tensor, Tensor]:
    """Transform homogeneous points, as kornia does."""
    from kornia.geometry.linalg import transform_points

    moved = transform_points(problem.matrices().float(), _by_sweep(problem))
    return moved.reshape(-1, 3), _ages(problem)


def devkit(problem: Problem) -> tuple[Tensor, Tensor]:
    """Do as the devkit does, sweep after sweep."""
    cloud_class, _, _ = _devkit()
    count = len(problem.points) // problem.sweeps
    matrices, seconds = problem.matrices().numpy(), problem.seconds().numpy()
    merged, times = cloud_class(np.zeros((4, 0), np.float32)), np.zeros((1, 0))
    for sweep in range(problem.sweeps):
        scan = problem.points[sweep * count : (sweep + 1) * count].numpy().copy()
        cloud = cloud_class(scan[:, :4].T)
        cloud.transform(matrices[sweep])
        times = np.hstack((times, seconds[sweep] * np.ones((1, cloud.nbr_points()))))
        merged.points = np.hstack((merged.points, cloud.points))
    return torch.from_numpy(merged.points[:3].T), torch.from_numpy(times[0])


def devkit_with_boxes(problem: Problem) -> tuple[Tensor, Tensor]:
    """Move each box's points from where the box was to where it is, sweep after sweep."""
    _, box_class, points_in_box = _devkit()
    from pyquaternion import Quaternion

    moved, seconds = devkit(problem)
    points, world = moved.numpy().T.copy(), problem.world_from_sensor[-1].inverse()
    count = len(problem.points) // problem.sweeps
    poses = world[None, None] @ problem.boxes.world_from_box.world_from_body
    carry = (poses[:, -1:] @ poses.inverse()).matrix().numpy()
    length, width, height = SIZE_M
    for sweep in range(problem.sweeps):
        scan = points[:, sweep * count : (sweep + 1) * count]
        free = np.ones(count, bool)
        before = scan.copy()
        for box in range(problem.boxes.count):
            pose = poses[box, sweep]
            shape = box_class(
                pose.translation.tolist(),
                [width, length, height],
                Quaternion(pose.quaternion().tolist()),
            )
            held = points_in_box(shape, before) & free
            matrix = carry[box, sweep]
            scan[:, held] = matrix[:3, :3] @ before[:, held] + matrix[:3, 3:]
            free &= ~held
    return torch.from_numpy(points.T), seconds


def _by_sweep(problem: Problem) -> Tensor:
    return problem.points[:, :3].reshape(problem.sweeps, -1, 3)


def _ages(problem: Problem) -> Tensor:
    count = len(problem.points) // problem.sweeps
    return problem.seconds().float()[:, None].expand(-1, count).reshape(-1)


def _devkit() -> tuple[Any, Any, Any]:
    try:
        from nuscenes.utils.data_classes import Box, LidarPointCloud
        from nuscenes.utils.geometry_utils import points_in_box
    except ImportError as error:
        raise Missing("nuscenes-devkit: see requirements/nuscenes-oracle.txt") from error
    return LidarPointCloud, Box, points_in_box


def check(problem: Problem, ways: dict[str, Accumulate]) -> None:
    """Refuse contenders that are not within single precision of the answer.

    Points within a millimetre of a box's surface may be in it or not.
    """
    precise = Problem(
        problem.points.double(), problem.times_us, problem.world_from_sensor, problem.boxes
    )
    with use_kernels("reference"):
        points, seconds = accumulate(precise)
    for name, run in ways.items():
        try:
            found, ages = run(problem)
        except Missing:
            continue
        wrong = ((found.double() - points).abs() > 1e-3).any(dim=-1)
        allowed = 1e-4 * len(points) if problem.boxes.count else 0
        if wrong.sum() > allowed or not torch.allclose(ages.double(), seconds, atol=1e-6):
            raise AssertionError(f"{name} must agree with float64, got {int(wrong.sum())} others")
