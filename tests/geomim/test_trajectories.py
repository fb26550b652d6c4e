import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from geomim.trajectories import NEVER_US, Trajectory, between
from geomim.transforms import RigidTransform
from tests.geomim.strategies import batches, normal, seeds

START_US = 1531883530449377


def poses(*batch, seed=0, reach=1.0):
    return RigidTransform.exp(normal(*batch, 6, seed=seed) * torch.tensor([9, 9, 9, 1, 1, 1]) * 0.5)


def trajectory(*batch, count=5, seed=0):
    steps = torch.tensor([50_001, 100_000, 3, 77_777] * count)[: count - 1]
    times = START_US + torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    return Trajectory(times.expand(*batch, -1).contiguous(), poses(*batch, count, seed=seed))


def assert_same(left, right, **tolerances):
    torch.testing.assert_close(left.matrix(), right.matrix(), **tolerances)


@given(batches, seeds)
def test_a_knot_is_hit_exactly(batch, seed):
    path = trajectory(*batch, seed=seed)
    pose, valid = path.at(path.timestamps_us)
    assert valid.all()
    assert torch.equal(pose.matrix(), path.world_from_body.matrix())


@given(batches, seeds, st.floats(0, 1))
def test_between_knots_it_is_the_screw_of_interpolate(batch, seed, share):
    path = trajectory(*batch, count=2, seed=seed)
    passed_us = round(50_001 * share)
    pose, valid = path.at(START_US + passed_us)
    ends = path.world_from_body
    expected = ends[..., 0].interpolate(ends[..., 1], passed_us / 50_001)
    assert valid.all()
    assert_same(pose, expected, atol=1e-9, rtol=1e-9)


def test_a_constant_turn_stays_on_its_circle():
    # Radius 10 m, half a radian a second, knots every second.
    times = torch.arange(4) * 1_000_000
    twist = torch.tensor([5.0, 0, 0, 0, 0, 0.5], dtype=torch.float64)
    path = Trajectory(times, RigidTransform.exp(twist * torch.arange(4.0)[:, None]))
    angle = 0.5 * 1.7
    expected = torch.tensor([10 * math.sin(angle), 10 * (1 - math.cos(angle)), 0.0]).double()
    torch.testing.assert_close(path.at(1_700_000).world_from_body.translation, expected)
    torch.testing.assert_close(path.twist_at(1_700_000).twist, twist)
    torch.testing.assert_close(path.twist_at(3_000_000).twist, twist)


def test_between_knots_it_is_the_matrix_exponential():
    start, twist = poses(seed=4), normal(6, seed=5)
    velocity = torch.zeros(4, 4).double()
    x, y, z = twist[3:]
    velocity[:3, :3] = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    velocity[:3, 3] = twist[:3]
    after = [start.matrix() @ torch.linalg.matrix_exp(velocity * s) for s in (0, 0.3, 1)]
    ends = RigidTransform.from_matrix(torch.stack([after[0], after[2]]))
    path = Trajectory(torch.tensor([START_US, START_US + 1_000_000]), ends)
    moved = path.at(START_US + 300_000).world_from_body
    torch.testing.assert_close(moved.matrix(), after[1], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(path.twist_at(START_US).twist, twist, atol=1e-12, rtol=1e-12)


def test_microseconds_count_at_todays_timestamps():
    # Today's seconds lie 128 apart in float32 and a quarter of a microsecond in float64.
    times = torch.tensor([START_US, START_US + 1_000_000])
    x = torch.tensor([[0.0, 0, 0], [1_000_000.0, 0, 0]])
    path = Trajectory(times, RigidTransform(torch.eye(3).expand(2, 3, 3), x))
    asked = START_US + torch.tensor([1, 2, 999_999])
    torch.testing.assert_close(
        path.at(asked).world_from_body.translation[:, 0], torch.tensor([1.0, 2.0, 999_999.0])
    )


def test_nothing_is_known_beyond_the_tolerance():
    path = trajectory()
    first, last = path.timestamps_us[0].item(), path.timestamps_us[-1].item()
    asked = torch.tensor([first - 11, first - 10, first, last, last + 10, last + 11])
    pose, valid = path.at(asked, tolerance_us=10)
    assert valid.tolist() == [False, True, True, True, True, False]
    assert torch.equal(pose.matrix()[[0, 5]], torch.eye(4).double().expand(2, 4, 4))
    assert path.at(asked).valid.tolist() == [False, False, True, True, False, False]
    assert not path.twist_at(asked).twist[[0, 5]].any()


def test_within_the_tolerance_the_velocity_is_kept():
    twist = normal(6, seed=1)
    path = Trajectory(
        torch.tensor([0, 1_000_000]),
        RigidTransform.exp(twist * torch.tensor([0.0, 1.0])[:, None]),
    )
    for seconds in (-0.4, 1.3):
        pose, valid = path.at(round(seconds * 1e6), tolerance_us=500_000)
        assert valid
        assert_same(pose, RigidTransform.exp(twist * seconds), atol=1e-9, rtol=1e-9)


def test_a_single_knot_rests():
    path = Trajectory(torch.tensor([START_US]), poses(1))
    pose, valid = path.at(START_US + 5, tolerance_us=5)
    assert valid
    assert torch.equal(pose.matrix(), path.world_from_body.matrix()[0])
    assert not path.at(START_US + 6, tolerance_us=5).valid
    assert not path.knot_twists().any()


def test_unsorted_times_are_refused_and_can_be_sorted():
    times, pose = torch.tensor([3, 1, 2]), poses(3)
    with pytest.raises(ValueError, match="timestamps_us must increase strictly, got 1 after 3"):
        Trajectory(times, pose)
    path = Trajectory.from_unsorted(times, pose)
    assert path.timestamps_us.tolist() == [1, 2, 3]
    assert_same(path.at(3).world_from_body, pose[0])


def test_duplicate_times_are_refused_or_one_is_kept():
    times, pose = torch.tensor([2, 1, 2]), poses(3)
    with pytest.raises(ValueError, match="timestamps_us must increase strictly, got 2 after 2"):
        Trajectory.from_unsorted(times, pose)
    assert_same(
        Trajectory.from_unsorted(times, pose, duplicates="first").at(2).world_from_body, pose[0]
    )
    assert_same(
        Trajectory.from_unsorted(times, pose, duplicates="last").at(2).world_from_body, pose[2]
    )


def test_stacked_trajectories_answer_as_they_did_alone():
    alone = [trajectory(count=count, seed=count) for count in (5, 1, 3)]
    together = Trajectory.stack(alone)
    asked = START_US + torch.tensor([-1, 0, 20_000, 120_000, 10**9])
    pose, valid = together.at(asked.expand(3, -1), tolerance_us=7)
    twist = together.twist_at(asked.expand(3, -1), tolerance_us=7).twist
    for row, path in enumerate(alone):
        expected = path.at(asked, tolerance_us=7)
        assert torch.equal(valid[row], expected.valid)
        assert_same(pose[row], expected.world_from_body)
        torch.testing.assert_close(twist[row], path.twist_at(asked, tolerance_us=7).twist)
        assert_same(together[row].world_from_body[:1], path.world_from_body[:1])
    with pytest.raises(ValueError, match="trajectories must hold at least one, got none"):
        Trajectory.stack([])


def test_a_row_of_padding_alone_is_nowhere():
    times = torch.tensor([[0, 10], [NEVER_US, NEVER_US]])
    path = Trajectory(times, poses(2, 2))
    pose, valid = path.at(5, tolerance_us=3)
    assert valid.tolist() == [True, False]
    assert torch.equal(pose[1].matrix(), torch.eye(4).double())
    assert not path.at(NEVER_US, tolerance_us=3).valid.any()


@given(seeds)
def test_a_part_fixed_to_the_body_moves_along(seed):
    ego, ego_from_cams = trajectory(seed=seed), poses(6, seed=seed + 1)
    asked = START_US + torch.tensor([3, 60_000])
    cams = ego @ ego_from_cams
    assert cams.shape == (6,)
    moved = cams.at(asked.expand(6, -1)).world_from_body
    expected = ego.at(asked).world_from_body[None] @ ego_from_cams[:, None]
    assert_same(moved, expected, atol=1e-9, rtol=1e-9)


@given(seeds)
def test_seen_from_elsewhere_the_motion_is_the_same(seed):
    path, frame = trajectory(seed=seed), poses(seed=seed + 1)
    seen = path.seen_from(frame).at(START_US + 60_000).world_from_body
    assert_same(frame @ seen, path.at(START_US + 60_000).world_from_body, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_its_tables_lead_where_it_leads(inverse):
    path, frame = Trajectory.stack([trajectory(seed=1), trajectory(count=2, seed=2)]), poses(seed=3)
    tables = path.screws(torch.float64, world_from_frame=frame, tolerance_us=40, inverse=inverse)
    seen = path.seen_from(frame)
    expected = seen.world_from_body.inverse() if inverse else seen.world_from_body
    known = path.timestamps_us != NEVER_US
    matrix = expected.matrix()[..., :3, :]
    torch.testing.assert_close(tables.matrix[known], matrix[known])
    torch.testing.assert_close(tables.twist[known], seen.knot_twists()[known])
    assert torch.equal(tables.times_us, path.timestamps_us)
    assert tables.begin_us.tolist() == [START_US - 40] * 2
    assert tables.end_us.tolist() == [path.timestamps_us[0, -1] + 40, START_US + 50_041]
    alone = path.screws(torch.float32)
    assert alone.matrix.dtype == alone.twist.dtype == torch.float32
    torch.testing.assert_close(alone.matrix[0, 0], path[0].world_from_body[0].matrix()[:3].float())


def test_far_from_the_origin_single_precision_loses_no_steps():
    start = RigidTransform(torch.eye(3), torch.tensor([4.0e6, 6.0e5, 0.0]))
    end = RigidTransform(torch.eye(3), torch.tensor([4.0e6 + 1, 6.0e5, 0.0]))
    assert between(start, end).translation.tolist() == [1.0, 0.0, 0.0]


def test_gradients_reach_the_poses_around_an_instant():
    times = torch.tensor([0, 1_000_000, 2_500_000])
    asked = torch.tensor([0, 400_000, 1_000_000, 2_600_000, 9_000_000])

    def matrices(twists):
        path = Trajectory(times, RigidTransform.exp(twists))
        return path.at(asked, tolerance_us=200_000).world_from_body.matrix()

    assert gradcheck(matrices, (normal(3, 6, seed=2).requires_grad_(),))
    twists = normal(3, 6, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(matrices(twists)[-1].sum(), twists)
    assert not gradient.any()


def test_standing_still_has_finite_gradients():
    twists = torch.zeros(2, 6, requires_grad=True)
    path = Trajectory(torch.tensor([0, 10]), RigidTransform.exp(twists))
    (gradient,) = torch.autograd.grad(path.at(5).world_from_body.matrix().sum(), twists)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(0,), (2, 0), (3,)])
def test_there_may_be_nothing_to_ask(shape):
    path = trajectory(*shape[:1]) if len(shape) == 1 else trajectory(2)
    pose, valid = path.at(torch.full(shape, START_US))
    assert valid.shape == pose.shape == shape


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match=r"world_from_body must hold a pose .* got \(2,\) for \(3,"
    ):
        Trajectory(torch.arange(3), poses(2))
    with pytest.raises(ValueError, match=r"at least one timestamp, got \(0,\) for \(0,\)"):
        Trajectory(torch.arange(0), poses(0))
    with pytest.raises(ValueError, match=r"times_us must lead with the batch \(3,\), got \(2,\)"):
        trajectory(3).at(torch.arange(2))
    with pytest.raises(ValueError, match="tolerance_us must not be negative, got -1"):
        trajectory().at(0, tolerance_us=-1)
    with pytest.raises(ValueError, match="a trajectory without a batch must not be indexed"):
        trajectory()[0]


def test_a_trajectory_moves_to_another_dtype():
    assert trajectory().to(dtype=torch.float32).at(START_US).world_from_body.dtype == torch.float32
