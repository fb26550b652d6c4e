import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from geomim.accumulation import Sweeps, accumulate_sweeps
from geomim.kernels.selection import use_kernels
from geomim.sceneflow import RigidSceneFlow, flow_from_boxes
from geomim.tracks import TrackedBoxes
from geomim.trajectories import Trajectory
from geomim.transforms import RigidTransform
from tests.geomim.strategies import normal, seeds

START_US = 1531883530449377
KNOTS_US = START_US + torch.tensor([0, 500_000, 1_000_000, 1_500_000])
instants = st.integers(START_US, START_US + 1_500_000)


def poses(*batch, seed):
    return RigidTransform.exp(normal(*batch, 6, seed=seed) * torch.tensor([4.0] * 3 + [0.6] * 3))


def trajectory(*batch, seed):
    return Trajectory(KNOTS_US.expand(*batch, -1), poses(*batch, 4, seed=seed))


def scene(boxes=3, seed=0):
    size = normal(boxes, 3, seed=seed + 1).abs() * 2 + 2
    return TrackedBoxes(trajectory(boxes, seed=seed), size, torch.arange(boxes) + 40)


def points_in(boxes, times_us, *, inside=0.9, seed=5):
    """Every other point in a box, the others anywhere."""
    count = len(times_us)
    points = normal(count, 3, seed=seed) * 6
    for n in range(0, count, 2) if boxes.count else ():
        b = n // 2 % boxes.count
        at = (torch.rand(3, generator=torch.Generator().manual_seed(n)) - 0.5) * inside
        pose = boxes.world_from_box[b].at(int(times_us[n])).world_from_body
        points[n] = pose.apply(at.double() * boxes.size[b])
    return points


def spread(count=24):
    return START_US + torch.arange(count) * 1_500_000 // count


@settings(max_examples=15)
@given(instants, instants, seeds)
def test_going_there_and_back_is_staying(begin_us, end_us, seed):
    flow = RigidSceneFlow(scene(seed=seed))
    points = points_in(flow.boxes, torch.full((24,), begin_us))
    there = flow.move(points, from_us=begin_us, to_us=end_us)
    back = flow.move(there.points, from_us=end_us, to_us=begin_us, box=there.box)
    assert there.valid.all()
    assert (there.box >= 0).sum() >= 12
    torch.testing.assert_close(back.points, points, atol=1e-9, rtol=1e-9)
    assert torch.equal(back.box, there.box)


@settings(max_examples=15)
@given(instants, instants, instants)
def test_two_steps_are_one(first_us, second_us, third_us):
    flow = RigidSceneFlow(scene())
    points = points_in(flow.boxes, torch.full((24,), first_us))
    half = flow.move(points, from_us=first_us, to_us=second_us)
    rest = flow.move(half.points, from_us=second_us, to_us=third_us, box=half.box)
    whole = flow.move(points, from_us=first_us, to_us=third_us)
    torch.testing.assert_close(rest.points, whole.points, atol=1e-9, rtol=1e-9)
    assert torch.equal(rest.box, whole.box)


def test_moving_to_ones_own_time_changes_nothing():
    flow, times = RigidSceneFlow(scene()), spread()
    points = points_in(flow.boxes, times)
    moved = flow.move(points, from_us=times, to_us=times)
    assert set(moved.box.tolist()) == {-1, 0, 1, 2}
    torch.testing.assert_close(moved.points, points)
    rest = moved.box == -1
    assert torch.equal(moved.points[rest], points[rest])


def test_a_point_at_rest_in_a_box_keeps_its_place_there():
    flow, begin, end = RigidSceneFlow(scene()), spread(), spread().flip(0)
    moved = flow.move(points_in(flow.boxes, begin), from_us=begin, to_us=end)
    points = points_in(flow.boxes, begin)
    for n in moved.box.ge(0).nonzero().flatten().tolist():
        path = flow.boxes.world_from_box[int(moved.box[n])]
        then, now = (path.at(int(time)).world_from_body for time in (begin[n], end[n]))
        at = then.inverse().apply(points[n])
        torch.testing.assert_close(now.inverse().apply(moved.points[n]), at)
    rest = moved.box == -1
    assert rest.any()
    assert torch.equal(moved.points[rest], points[rest])


def test_a_turning_car_carries_its_wheel_along_a_circle():
    # It starts at the origin, looks along x and follows a circle of 10 m at half a radian a second.
    twist = torch.tensor([5.0, 0, 0, 0, 0, 0.5], dtype=torch.float64)
    path = Trajectory(
        torch.tensor([0, 1_000_000]), RigidTransform.exp(twist * torch.tensor([[0.0], [1.0]]))
    )
    size, track = torch.tensor([[4.0, 2.0, 1.5]]).double(), torch.tensor([7])
    flow = RigidSceneFlow(TrackedBoxes(Trajectory.stack([path]), size, track))
    wheel = torch.tensor([[0.0, 1.0, -0.5]]).double()
    moved = flow.move(wheel, from_us=0, to_us=600_000).points[0]
    turned = 0.5 * 0.6
    assert moved.tolist() == pytest.approx([9 * math.sin(turned), 10 - 9 * math.cos(turned), -0.5])
    velocity = flow.velocity(moved[None], 600_000).velocity[0]
    assert velocity.tolist() == pytest.approx([4.5 * math.cos(turned), 4.5 * math.sin(turned), 0])


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("source", [None, "pose", "path"])
@pytest.mark.parametrize("target", [None, "pose", "path"])
def test_frames_are_entered_and_left_at_each_points_instant(kernels, source, target):
    flow, begin, end = RigidSceneFlow(scene()), spread(), spread().flip(0)
    frames = {"pose": poses(seed=21), "path": trajectory(seed=22), None: None}
    world = points_in(flow.boxes, begin)
    plain = flow.move(world, from_us=begin, to_us=end)

    def inside(points, times, frame):
        if isinstance(frame, Trajectory):
            frame = frame.at(times).world_from_body
            return frame.inverse().apply(points)
        return points if frame is None else frame.inverse().apply(points)

    with use_kernels(kernels):
        moved = flow.move(
            inside(world, begin, frames[source]),
            from_us=begin,
            to_us=end,
            world_from_source=frames[source],
            world_from_target=frames[target],
        )
    expected = inside(plain.points, end, frames[target])
    torch.testing.assert_close(moved.points, expected, atol=1e-9, rtol=1e-9)
    assert torch.equal(moved.box, plain.box)


def test_it_moves_points_as_sweeps_are_accumulated():
    boxes, sensor, times = scene(), trajectory(seed=31), spread()
    world = points_in(boxes, times)
    points = sensor.at(times).world_from_body.inverse().apply(world)
    to_us = START_US + 777_777
    moved = RigidSceneFlow(boxes).move(points, from_us=times, to_us=to_us, world_from_source=sensor)
    sweeps = Sweeps(points, torch.tensor([0, 24]), times[:1], sensor, times)
    found = accumulate_sweeps(sweeps, target_time_us=to_us, boxes=boxes)
    torch.testing.assert_close(moved.points, found.points, atol=1e-9, rtol=1e-9)
    assert torch.equal(torch.where(moved.box >= 0, moved.box + 40, -1).long(), found.track)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_velocity_is_how_fast_points_move(kernels):
    flow, times, frame = RigidSceneFlow(scene()), spread() + 1000, trajectory(seed=22)
    world = points_in(flow.boxes, times)
    pose = frame.at(times).world_from_body
    with use_kernels(kernels):
        here = flow.velocity(world, times)
        seen = flow.velocity(pose.inverse().apply(world), times, world_from_source=frame)
        fixed = flow.velocity(pose[0].inverse().apply(world), times, world_from_source=pose[0])
    later, earlier = (
        flow.move(world, from_us=times, to_us=times + step).points for step in (10, -10)
    )
    torch.testing.assert_close(here.velocity, (later - earlier) / 20e-6, atol=1e-4, rtol=1e-4)
    assert not here.velocity[here.box == -1].any()
    assert (here.velocity[here.box >= 0].norm(dim=-1) > 0.1).all()
    torch.testing.assert_close(seen.velocity, pose.inverse().rotate(here.velocity))
    torch.testing.assert_close(fixed.velocity, pose[0].inverse().rotate(here.velocity))
    assert torch.equal(seen.box, here.box)


def test_todays_microseconds_lose_nothing():
    boxes, times = scene(), spread()
    path = boxes.world_from_box
    shift = START_US - 7
    early = TrackedBoxes(
        Trajectory(path.timestamps_us - shift, path.world_from_body), boxes.size, boxes.track
    )
    points = points_in(boxes, times)
    here = RigidSceneFlow(boxes).move(points, from_us=times, to_us=START_US + 333_333)
    there = RigidSceneFlow(early).move(points, from_us=times - shift, to_us=333_340)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_first_of_two_boxes_has_a_point_in_both(order):
    boxes = scene(2)
    one_place = poses(1, 4, seed=1).rotation, torch.zeros(1, 4, 3).double()
    path = boxes.world_from_box.world_from_body
    path = RigidTransform(
        torch.cat([one_place[0], path.rotation[1:]])[order],
        torch.cat([one_place[1], path.translation[1:] - path.translation[1:, :1]])[order],
    )
    both = TrackedBoxes(Trajectory(KNOTS_US.expand(2, -1), path), boxes.size, boxes.track)
    point = torch.tensor([[0.1, 0.2, 0.3]]).double()
    moved = RigidSceneFlow(both).move(point, from_us=START_US, to_us=START_US + 900_000)
    assert moved.box.tolist() == [0]
    told = RigidSceneFlow(both).move(
        point, from_us=START_US, to_us=START_US + 900_000, box=torch.tensor([1])
    )
    assert told.box.tolist() == [1]
    assert not torch.allclose(told.points, moved.points)


def test_nothing_is_known_beyond_the_tolerance():
    boxes = scene(1)
    last = int(KNOTS_US[-1])
    points = points_in(boxes, torch.full((2,), last), inside=0.1)
    for tolerance, late, valid in ((0, 0, True), (0, 1, False), (9, 9, True), (9, 10, False)):
        flow = RigidSceneFlow(boxes, tolerance_us=tolerance)
        moved = flow.move(points, from_us=last, to_us=last + late)
        # The second point is the world's, which is always known.
        assert moved.valid.tolist() == [valid, True]
        assert moved.box.tolist() == [0 if valid else -2, -1]
        assert moved.points[0].any() == valid
    path = trajectory(seed=3)
    flow = RigidSceneFlow(TrackedBoxes.none(dtype=torch.float64), tolerance_us=5)
    for late, valid in ((5, True), (6, False)):
        given = {"from_us": last, "to_us": last + late}
        assert flow.move(points, **given, world_from_target=path).valid.all() == valid
        given = {"from_us": last + late, "to_us": last}
        assert flow.move(points, **given, world_from_source=path).valid.all() == valid


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("source", [None, "pose", "path"])
def test_a_point_that_is_nowhere_is_zero_without_gradient(kernels, source):
    boxes, twist = scene(), normal(6, seed=2).requires_grad_()
    frames = {
        "pose": lambda: RigidTransform.exp(twist),
        "path": lambda: Trajectory(KNOTS_US, RigidTransform.exp(twist.expand(4, 6))),
        None: lambda: None,
    }
    points = normal(5, 3, seed=1)
    points[:3, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    points.requires_grad_()
    times = {"from_us": START_US, "to_us": START_US + 9}
    with use_kernels(kernels):
        moved = RigidSceneFlow(boxes).move(points, **times, world_from_source=frames[source]())
        speed = RigidSceneFlow(boxes).velocity(points, START_US, world_from_source=frames[source]())
    assert moved.valid.tolist() == speed.valid.tolist() == [False] * 3 + [True] * 2
    assert moved.box[:3].tolist() == speed.box[:3].tolist() == [-2] * 3
    loss = moved.points.sum() + speed.velocity.sum()
    by_points, by_twist = torch.autograd.grad(
        loss, (points, twist), allow_unused=True, materialize_grads=True
    )
    assert not moved.points[:3].any()
    assert not by_points[:3].any()
    assert by_points[3:].all()
    assert by_twist.isfinite().all()


def test_gradients_reach_points_boxes_and_frames():
    times = torch.tensor([START_US + 1000, START_US + 600_000, START_US + 1_400_000])
    size = torch.full((1, 3), 60.0).double()

    def moved(points, box, frame):
        path = Trajectory(KNOTS_US[None, :2], RigidTransform.exp(box))
        flow = RigidSceneFlow(TrackedBoxes(path, size, torch.tensor([1])), tolerance_us=10**6)
        source = Trajectory(KNOTS_US[[0, 3]], RigidTransform.exp(frame))
        given = {"world_from_source": source}
        there = flow.move(points, from_us=times, to_us=times.flip(0), **given)
        return there.points, flow.velocity(points, times, **given).velocity

    leaves = (normal(3, 3, seed=1), normal(1, 2, 6, seed=2), normal(2, 6, seed=3))
    assert gradcheck(moved, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("boxes", [0, 2])
@pytest.mark.parametrize("count", [0, 3])
def test_there_may_be_no_boxes_and_no_points(boxes, count):
    flow = RigidSceneFlow(scene(boxes) if boxes else TrackedBoxes.none(dtype=torch.float64))
    points = normal(count, 3, seed=1) + 1000
    moved = flow.move(points, from_us=START_US, to_us=START_US + 5)
    speed = flow.velocity(points, START_US)
    assert torch.equal(moved.points, points)
    assert moved.valid.tolist() == speed.valid.tolist() == [True] * count
    assert not speed.velocity.any()


def test_single_precision_points_are_moved_in_the_boxes_precision():
    boxes, times = scene(), spread()
    points = points_in(boxes, times)
    flow = RigidSceneFlow(boxes)
    exact = flow.move(points.float().double(), from_us=times, to_us=START_US)
    single = flow.move(points.float(), from_us=times, to_us=START_US)
    assert single.points.dtype == torch.float32
    assert torch.equal(single.points, exact.points.float())


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_flow_from_boxes_is_the_move_between_their_poses(kernels):
    boxes = scene()
    begin, end = int(KNOTS_US[1]), int(KNOTS_US[2])
    points = points_in(boxes, torch.full((24,), begin))
    moved = RigidSceneFlow(boxes).move(points, from_us=begin, to_us=end)
    with use_kernels(kernels):
        found = flow_from_boxes(
            points,
            world_from_box_source=boxes.world_from_box.at(begin).world_from_body,
            world_from_box_target=boxes.world_from_box.at(end).world_from_body,
            size=boxes.size,
        )
    torch.testing.assert_close(found.flow, moved.points - points, atol=1e-9, rtol=1e-9)
    assert torch.equal(found.box, moved.box)
    assert not found.flow[found.box == -1].any()


def test_flow_from_boxes_has_gradients_and_no_flow_where_nothing_is_known():
    points = torch.tensor([[0.1, 0.2, 0.3], [torch.nan, 0, 0], [9, 9, 9]]).double()
    size = torch.ones(1, 3).double()

    def flow(points, source, target):
        return flow_from_boxes(
            points,
            world_from_box_source=RigidTransform.exp(source),
            world_from_box_target=RigidTransform.exp(target),
            size=size,
        )

    source, target = torch.zeros(1, 6).double(), normal(1, 6, seed=1)
    found = flow(points, source, target)
    assert found.valid.tolist() == [True, False, True]
    assert found.box.tolist() == [0, -2, -1]
    assert found.flow[0].all()
    assert not found.flow[1:].any()
    leaves = [leaf.requires_grad_() for leaf in (points[::2].clone(), source, target)]
    assert gradcheck(lambda *parts: flow(*parts).flow, leaves)


def test_what_does_not_fit_is_refused():
    flow, points = RigidSceneFlow(scene()), normal(4, 3, seed=1)
    with pytest.raises(ValueError, match=r"times_us must be one or as many as the 4 .* got \(3,\)"):
        flow.move(points, from_us=torch.zeros(3).long(), to_us=0)
    with pytest.raises(TypeError, match=r"points must be float32 or float64, got torch.float16"):
        flow.velocity(points.half(), 0)
    with pytest.raises(TypeError, match=r"points must be float32 or float64, got torch.bfloat16"):
        flow.move(points.bfloat16(), from_us=0, to_us=0)
    with pytest.raises(
        ValueError, match=r"must hold as many boxes, got \[\(2,\), \(3,\), \(3,\)\]"
    ):
        flow_from_boxes(
            points,
            world_from_box_source=poses(2, seed=1),
            world_from_box_target=poses(3, seed=1),
            size=torch.ones(3, 3).double(),
        )
