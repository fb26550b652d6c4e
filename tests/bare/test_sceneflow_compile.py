"""Scene flow inside torch.compile, which the run-time shape checks would break."""

import pytest
import torch

from geomim.accumulation import Sweeps, accumulate_sweeps
from geomim.cameras import PinholeCamera
from geomim.depthflow import chain_flow, flow_from_depth
from geomim.sceneflow import RigidSceneFlow, flow_from_boxes
from geomim.splatting import project_lidar, splat_depth
from geomim.tracks import TrackedBoxes
from geomim.trajectories import Trajectory
from geomim.transforms import RigidTransform

START_US = 1531883530449377
TIMES_US = START_US + torch.tensor([0, 400_000, 1_000_000])
OFFSETS = torch.tensor([0, 9, 9, 20])
CAMERA = PinholeCamera(torch.tensor([9.0, 9.0]), torch.tensor([5.0, 4.0]), (8, 10))


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_compiles(function, *inputs: torch.Tensor) -> None:
    """Compile whole; compare results and the gradients of floating inputs."""
    leaves = [t.requires_grad_() for t in inputs if t.is_floating_point()]
    results = []
    for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        fields = run(*inputs)
        loss = sum(f.square().sum() for f in fields if f.is_floating_point())
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        results.append((*fields, *gradients))
    torch.testing.assert_close(results[1], results[0])


def boxes() -> TrackedBoxes:
    path = Trajectory(TIMES_US.expand(2, -1), RigidTransform.exp(normal(2, 3, 6, seed=1)))
    return TrackedBoxes(path, torch.full((2, 3), 3.0, dtype=torch.float64), torch.tensor([5, 3]))


@pytest.mark.parametrize("by_point", [False, True])
def test_accumulation_compiles_whole(by_point):
    sensor = Trajectory(TIMES_US, RigidTransform.exp(normal(3, 6, seed=2)))
    times = START_US + torch.arange(20) * 50_000 if by_point else None
    objects = boxes()

    def accumulate(points):
        sweeps = Sweeps(points, OFFSETS, TIMES_US, sensor, times)
        return accumulate_sweeps(sweeps, target_time_us=START_US + 12_345, boxes=objects)

    assert_compiles(accumulate, normal(20, 3, seed=3))


def test_accumulation_without_boxes_compiles_whole_with_learnt_poses():
    def accumulate(points, twist):
        sweeps = Sweeps(points, OFFSETS, TIMES_US, RigidTransform.exp(twist))
        return accumulate_sweeps(sweeps, target_time_us=START_US)

    assert_compiles(accumulate, normal(20, 3, seed=3), normal(3, 6, seed=2))


def test_scene_flow_compiles_whole():
    flow, sensor = (
        RigidSceneFlow(boxes()),
        Trajectory(TIMES_US, RigidTransform.exp(normal(3, 6, seed=2))),
    )

    def move(points, times):
        options = {"world_from_source": sensor}
        moved = flow.move(points, from_us=times, to_us=START_US + 77_777, **options)
        return *moved, *flow.velocity(points, times, **options)

    assert_compiles(move, normal(20, 3, seed=3), START_US + torch.arange(20) * 50_000)


def test_flow_from_boxes_compiles_whole():
    def flow(points, source, target):
        return flow_from_boxes(
            points,
            world_from_box_source=RigidTransform.exp(source),
            world_from_box_target=RigidTransform.exp(target),
            size=torch.full((2, 3), 2.0, dtype=torch.float64),
        )

    assert_compiles(flow, normal(20, 3, seed=3), normal(2, 6, seed=4), normal(2, 6, seed=5))


def test_depth_flow_compiles_whole():
    def follow(depth, twist):
        flow = flow_from_depth(depth, CAMERA, target_from_source=RigidTransform.exp(twist))
        return chain_flow([flow, flow], tolerance=1.0)

    depth = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) + 2
    assert_compiles(follow, depth, torch.tensor([0.05, 0.02, 0.0, 0.01, 0.0, 0.02]))


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_splatting_compiles_whole(radius):
    def splat(points, twist):
        pose = RigidTransform.exp(twist)
        seen = project_lidar(points, CAMERA, cam_from_lidar=pose)
        return *seen, *splat_depth(points, CAMERA, cam_from_points=pose, radius=radius)

    points = normal(50, 3, seed=3).float() + torch.tensor([0.0, 0.0, 3.0])
    assert_compiles(splat, points, normal(2, 6, seed=4).float() * 0.1)


def test_flow_and_splatting_keep_their_precision_under_autocast():
    points, depth = normal(50, 3, seed=3).float(), torch.rand(8, 10) + 2
    pose = RigidTransform.exp(normal(6, seed=4).float() * 0.1)

    def all_of_it():
        flow = flow_from_depth(depth, CAMERA, target_from_source=pose)
        moved = RigidSceneFlow(boxes()).move(
            points, from_us=START_US, to_us=START_US + 9, world_from_source=pose
        )
        return *flow, *moved, *splat_depth(points, CAMERA, cam_from_points=pose)

    plain = all_of_it()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = all_of_it()
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


def test_parts_of_sweeps_that_do_not_fit_are_refused():
    """Reached only where shapes are not checked at run time."""
    points, pose = normal(20, 3, seed=1), RigidTransform.exp(normal(3, 6, seed=2))
    with pytest.raises(ValueError, match="point_times_us must be one for each of 20 points, got 3"):
        Sweeps(points, OFFSETS, TIMES_US, pose, TIMES_US)
