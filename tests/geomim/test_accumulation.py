import pytest
import torch
from hypothesis import given
from torch.autograd import gradcheck

from geomim.accumulation import Sweeps, accumulate_sweeps
from geomim.kernels.selection import use_kernels
from geomim.tracks import TrackedBoxes
from geomim.trajectories import Trajectory
from geomim.transforms import RigidTransform
from tests.geomim.strategies import normal, rigid_transforms, seeds

START_US = 1531883530449377
STEP_US = 50_000


def poses(*batch, seed, turn=0.5):
    return RigidTransform.exp(normal(*batch, 6, seed=seed) * torch.tensor([4.0] * 3 + [turn] * 3))


def path(start, twist, times_us):
    """A body on one screw for ever, with knots at some of its instants."""
    seconds = (times_us - START_US).double() * 1e-6
    moved = RigidTransform.exp(twist * seconds[:, None])
    return Trajectory(times_us, start[None] @ moved)


def pose_matrix(start, twist, time_us):
    """Where that body is, by the power series of the matrix exponential."""
    generator = torch.zeros(4, 4).double()
    x, y, z = twist[3:]
    generator[:3, :3] = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    generator[:3, 3] = twist[:3]
    return start.matrix() @ torch.linalg.matrix_exp(generator * (time_us - START_US) * 1e-6)


class Scene:
    """A sensor and boxes on screws; most points lie in and around the boxes."""

    def __init__(self, lengths=(30, 0, 45, 25), boxes=3):
        count = sum(lengths)
        self.times_us = START_US + torch.arange(len(lengths)) * STEP_US
        knots_us = START_US + torch.tensor([0, 60_000, 200_000])
        self.sensor, self.sensor_twist = poses(seed=1), normal(6, seed=2) * 4
        self.box, self.box_twist = poses(boxes, seed=3), normal(boxes, 6, seed=4) * 4
        self.size = normal(boxes, 3, seed=5).abs() * 2 + 2
        self.path = path(self.sensor, self.sensor_twist, knots_us)
        self.boxes = TrackedBoxes.none(dtype=torch.float64)
        if boxes:
            ways = [path(self.box[b], self.box_twist[b], knots_us) for b in range(boxes)]
            self.boxes = TrackedBoxes(Trajectory.stack(ways), self.size, torch.arange(boxes) + 70)
        self.offsets = torch.tensor([0, *lengths]).cumsum(0)
        sweep = torch.repeat_interleave(torch.tensor(lengths))
        drift = torch.arange(count) * 137 % STEP_US
        self.point_times_us = self.times_us[sweep] + drift
        self.points = normal(count, 3, seed=6) * 3
        for n in range(0, count, 3) if boxes else ():
            b, time = n // 3 % boxes, self.times_us[sweep[n]].item()
            box = pose_matrix(self.box[b], self.box_twist[b], time)
            sensor = pose_matrix(self.sensor, self.sensor_twist, time)
            self.points[n] = _apply(torch.linalg.inv(sensor) @ box, self.points[n] * 0.2)

    def sweeps(self, *, by_point=False, along_path=True):
        pose = self.path if along_path else self.path.at(self.times_us).world_from_body
        times = self.point_times_us if by_point else None
        return Sweeps(self.points, self.offsets, self.times_us, pose, times)

    def by_hand(self, target_us, world_from_target, *, by_point):
        """One point after the other, box after box, by 4x4 matrices."""
        moved, tracks = [], []
        back = torch.linalg.inv(world_from_target.matrix())
        for n, point in enumerate(self.points):
            sweep = int((self.offsets <= n).sum()) - 1
            time = (self.point_times_us[n] if by_point else self.times_us[sweep]).item()
            world = _apply(pose_matrix(self.sensor, self.sensor_twist, time), point)
            track = -1
            for b in range(len(self.size)):
                then = pose_matrix(self.box[b], self.box_twist[b], time)
                at_box = _apply(torch.linalg.inv(then), world)
                if (at_box.abs() <= self.size[b] / 2).all():
                    now = pose_matrix(self.box[b], self.box_twist[b], target_us)
                    world, track = _apply(now, at_box), 70 + b
                    break
            moved.append(_apply(back, world))
            tracks.append(track)
        return torch.stack(moved), torch.tensor(tracks)


def _apply(matrix, point):
    return matrix[:3, :3] @ point + matrix[:3, 3]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("by_point", "along_path"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("boxes", [0, 3])
def test_it_equals_a_loop_over_points(kernels, by_point, along_path, boxes):
    scene, target_us, frame = Scene(boxes=boxes), START_US + 110_000, poses(seed=9)
    sweeps = scene.sweeps(by_point=by_point, along_path=along_path)
    with use_kernels(kernels):
        found = accumulate_sweeps(
            sweeps, target_time_us=target_us, world_from_target=frame, boxes=scene.boxes
        )
    points, track = scene.by_hand(target_us, frame, by_point=by_point)
    assert found.valid.all()
    assert torch.equal(found.track, track)
    assert set(track.tolist()) == ({-1, 70, 71, 72} if boxes else {-1})
    torch.testing.assert_close(found.points, points, atol=1e-9, rtol=1e-9)
    assert found.sweep.tolist() == [0] * 30 + [2] * 45 + [3] * 25
    times = scene.point_times_us if by_point else scene.times_us[found.sweep.long()]
    torch.testing.assert_close(found.seconds, (times - target_us).double() * 1e-6)


@given(rigid_transforms(), seeds)
def test_a_sweep_moved_to_its_own_time_and_frame_stays(world_from_sensor, seed):
    points = torch.cat([torch.zeros(1, 3).double(), normal(20, 3, seed=seed) * 9])
    box = TrackedBoxes(
        _row(Trajectory(torch.tensor([START_US]), world_from_sensor[None])),
        torch.full((1, 3), 8.0).double(),
        torch.tensor([5]),
    )
    sweeps = Sweeps.from_list([points], torch.tensor([START_US]), world_from_sensor[None])
    found = accumulate_sweeps(
        sweeps, target_time_us=START_US, world_from_target=world_from_sensor, boxes=box
    )
    torch.testing.assert_close(found.points, points, atol=1e-9, rtol=1e-9)
    assert not found.seconds.any()
    assert found.track[0] == 5


def test_a_car_seen_twenty_times_is_seen_sharp():
    # It drives at 20 m/s past a sensor that drives at 10, and turns.
    times = START_US + torch.arange(20) * STEP_US
    car = path(poses(seed=1), torch.tensor([20.0, 0, 0, 0, 0, 0.7]).double(), times)
    sensor = path(poses(seed=2), torch.tensor([10.0, 0, 0, 0, 0, -0.2]).double(), times)
    on_car = (normal(40, 3, seed=3) * 0.3).clamp(-0.9, 0.9)
    world = car.at(times).world_from_body.apply(on_car.expand(20, -1, -1))
    seen = sensor.at(times).world_from_body.inverse().apply(world)
    boxes = TrackedBoxes(_row(car), torch.full((1, 3), 2.0).double(), torch.tensor([3]))
    sweeps = Sweeps.from_list(list(seen), times, sensor)
    found = accumulate_sweeps(sweeps, target_time_us=int(times[7]) + 123, boxes=boxes)
    now = car.at(int(times[7]) + 123).world_from_body.apply(on_car)
    expected = now.expand(20, -1, -1).reshape(-1, 3)
    torch.testing.assert_close(found.points, expected, atol=1e-9, rtol=1e-9)
    assert (found.track == 3).all()
    blurred = accumulate_sweeps(sweeps, target_time_us=int(times[7]))
    assert (blurred.points - expected).norm(dim=-1).max() > 5


def _row(trajectory):
    return Trajectory.stack([trajectory])


@pytest.mark.parametrize("by_point", [False, True])
def test_todays_microseconds_lose_nothing(by_point):
    scene = Scene()
    early = scene.sweeps(by_point=by_point)
    shift = START_US - 7

    def moved_back(path):
        return Trajectory(path.timestamps_us - shift, path.world_from_body)

    late = Sweeps(
        early.points_sensor,
        early.offsets,
        early.times_us - shift,
        moved_back(scene.path),
        scene.point_times_us - shift if by_point else None,
    )
    boxes = TrackedBoxes(moved_back(scene.boxes.world_from_box), scene.size, scene.boxes.track)
    options = [(early, scene.boxes, START_US + 77_777), (late, boxes, 77_784)]
    here, there = (
        accumulate_sweeps(sweeps, target_time_us=time, boxes=given)
        for sweeps, given, time in options
    )
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_sweeps_of_one_instant_may_be_several():
    # Two lidars that fire together.
    times, pose = torch.tensor([START_US, START_US]), poses(2, seed=1)
    points = normal(2, 9, 3, seed=2)
    found = accumulate_sweeps(Sweeps.from_list(list(points), times, pose), target_time_us=START_US)
    torch.testing.assert_close(found.points, pose.apply(points).reshape(-1, 3))


@pytest.mark.parametrize("by_point", [False, True])
def test_nothing_is_known_beyond_the_tolerance(by_point):
    times = START_US + torch.tensor([-11, -10, 0, 1000, 1010, 1011])
    way = path(poses(seed=1), normal(6, seed=2), START_US + torch.tensor([0, 1000]))
    points = normal(6, 3, seed=3)
    sweeps = Sweeps(points, torch.arange(7), times, way, times if by_point else None)
    found = accumulate_sweeps(sweeps, target_time_us=START_US, tolerance_us=10)
    assert found.valid.tolist() == [False, True, True, True, True, False]
    assert not found.points[~found.valid].any()
    exact = accumulate_sweeps(sweeps, target_time_us=START_US)
    assert exact.valid.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("by_point", [False, True])
def test_a_point_is_lost_if_its_box_is_gone_at_the_target(by_point):
    way = path(poses(seed=1), normal(6, seed=2), START_US + torch.tensor([0, 1000]))
    boxes = TrackedBoxes(_row(way), torch.ones(1, 3).double(), torch.tensor([9]))
    centre = way.at(START_US).world_from_body.translation
    points = torch.stack([centre, centre + 30])
    times = torch.full((2,), START_US)
    sweeps = Sweeps(
        points,
        torch.tensor([0, 2]),
        times[:1],
        RigidTransform.identity(1, dtype=torch.float64),
        times if by_point else None,
    )
    late = accumulate_sweeps(sweeps, target_time_us=START_US + 1001, boxes=boxes)
    assert late.valid.tolist() == [False, True]
    just = accumulate_sweeps(sweeps, target_time_us=START_US + 1001, boxes=boxes, tolerance_us=1)
    assert just.valid.tolist() == [True, True]
    assert just.track.tolist() == [9, -1]


@pytest.mark.parametrize("by_point", [False, True])
def test_the_first_of_two_boxes_carries_a_point_in_both(by_point):
    times = START_US + torch.tensor([0, 1000])
    ways = [
        path(RigidTransform.identity(dtype=torch.float64), normal(6, seed=s), times) for s in (1, 2)
    ]
    boxes = TrackedBoxes(Trajectory.stack(ways), torch.ones(2, 3).double(), torch.tensor([8, 4]))
    point = torch.tensor([[0.3, -0.2, 0.1]]).double()
    sweeps = Sweeps(
        point,
        torch.tensor([0, 1]),
        times[:1],
        RigidTransform.identity(1, dtype=torch.float64),
        times[:1] if by_point else None,
    )
    found = accumulate_sweeps(sweeps, target_time_us=START_US + 1000, boxes=boxes)
    assert found.track.tolist() == [8]
    torch.testing.assert_close(
        found.points, ways[0].at(START_US + 1000).world_from_body.apply(point)
    )


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("by_point", [False, True])
def test_what_is_not_finite_is_zero_without_gradient(kernels, by_point):
    scene = Scene()
    scene.points[:3, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    scene.points.requires_grad_()
    translation = scene.path.world_from_body.translation.requires_grad_()
    with use_kernels(kernels):
        found = accumulate_sweeps(
            scene.sweeps(by_point=by_point), target_time_us=START_US, boxes=scene.boxes
        )
    by_points, by_poses = torch.autograd.grad(found.points.sum(), (scene.points, translation))
    assert (~found.valid).nonzero().flatten().tolist() == [0, 1, 2]
    assert not found.points[:3].any()
    assert (found.track[:3] == -1).all()
    assert not by_points[:3].any()
    assert by_points[3:].all()
    assert by_poses.isfinite().all()


@pytest.mark.parametrize("by_point", [False, True])
def test_gradients_reach_points_sensors_and_boxes(by_point):
    scene = Scene(lengths=(2, 0, 2), boxes=1)
    knots = scene.path.timestamps_us

    def points(given, sensor, box):
        way = Trajectory(knots, RigidTransform.exp(sensor))
        ways = Trajectory(knots[None], RigidTransform.exp(box))
        boxes = TrackedBoxes(ways, scene.size + 9, torch.arange(1))
        times = scene.point_times_us if by_point else None
        sweeps = Sweeps(given, scene.offsets, scene.times_us, way, times)
        return accumulate_sweeps(sweeps, target_time_us=START_US + 70_000, boxes=boxes).points

    leaves = (scene.points, normal(3, 6, seed=11), normal(1, 3, 6, seed=12))
    assert gradcheck(points, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("by_point", [False, True])
@pytest.mark.parametrize("boxes", [0, 2])
@pytest.mark.parametrize("lengths", [(0,), (0, 0)])
def test_no_points_are_no_points(by_point, boxes, lengths):
    found = accumulate_sweeps(
        Scene(lengths, boxes).sweeps(by_point=by_point),
        target_time_us=START_US,
        boxes=Scene(lengths, boxes).boxes,
    )
    assert found.points.shape == (0, 3)
    assert [len(part) for part in found] == [0] * 5


def test_single_precision_points_keep_far_poses_precise():
    # 500 km from the origin float32 knows 3 cm.
    shift = torch.tensor([5e5, 4e6, 100.0]).double()
    near = poses(3, seed=1)
    far = RigidTransform(near.rotation, near.translation + shift)
    points = normal(3, 8, 3, seed=2).float()
    times = START_US + torch.arange(3)
    found = accumulate_sweeps(
        Sweeps.from_list(list(points), times, far),
        target_time_us=START_US,
        world_from_target=far[0],
    )
    expected = (near[:1].inverse() @ near).apply(points.double()).reshape(-1, 3)
    assert found.points.dtype == found.seconds.dtype == torch.float32
    torch.testing.assert_close(found.points.double(), expected, atol=2e-5, rtol=0)


def test_columns_of_wider_points_are_as_good_as_copies():
    scene = Scene()
    wide = torch.cat([scene.points, normal(100, 2, seed=0)], dim=1)
    plain = scene.sweeps()
    view = Sweeps(wide[:, :3], plain.offsets, plain.times_us, plain.world_from_sensor)
    here, there = (
        accumulate_sweeps(sweeps, target_time_us=START_US, boxes=scene.boxes)
        for sweeps in (plain, view)
    )
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_sweeps_in_a_list_are_joined_with_their_times():
    sweeps = [normal(n, 3, seed=n) for n in (2, 0, 3)]
    times = [START_US + torch.arange(n) for n in (2, 0, 3)]
    pose = path(poses(seed=1), normal(6, seed=2), START_US + torch.tensor([0, 100]))
    joined = Sweeps.from_list(sweeps, START_US + torch.arange(3), pose, point_times_us=times)
    assert joined.offsets.tolist() == [0, 2, 2, 5]
    assert torch.equal(joined.points_sensor, torch.cat(sweeps))
    assert joined.point_times_us.tolist() == torch.cat(times).tolist()


def test_parts_that_do_not_fit_are_refused():
    points, times, pose = normal(5, 3, seed=1), torch.tensor([1, 2]), poses(2, seed=2)
    with pytest.raises(ValueError, match="offsets must be one more than the 2 times_us, got 2"):
        Sweeps(points, torch.tensor([0, 5]), times, pose)
    with pytest.raises(ValueError, match=r"one pose for each of \(2,\) sweeps .* got \(1,\)"):
        Sweeps(points, torch.tensor([0, 3, 5]), times, pose[:1])
    with pytest.raises(ValueError, match="sweeps must hold at least one, got none"):
        Sweeps.from_list([], times, pose)
    sweeps = Sweeps(points, torch.tensor([0, 3, 5]), times, pose)
    with pytest.raises(ValueError, match="tolerance_us must not be negative, got -1"):
        accumulate_sweeps(sweeps, target_time_us=0, tolerance_us=-1)
    half = Sweeps(points.half(), sweeps.offsets, times, pose)
    with pytest.raises(TypeError, match=r"points must be float32 or float64, got torch.float16"):
        accumulate_sweeps(half, target_time_us=0)
