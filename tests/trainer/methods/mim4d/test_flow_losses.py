from dataclasses import replace

import pytest
import torch

from geomim.grids import VoxelGrid
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBoxes, ClipLidar
from tests.trainer.methods.mim4d.clips import tiny_clips, tiny_config
from trainer.methods.method import ClipConstants
from trainer.methods.mim4d.flow_losses import (
    MOST_POINTS,
    box_flow_loss,
    lidar_flow_loss,
    velocities_in_boxes,
)
from trainer.methods.mim4d.method import Mim4d
from trainer.methods.mim4d.rigs import RigMotion

GRID = VoxelGrid.from_bounds((-5.0, -4.0, -1.0), (5.0, 4.0, 1.0), shape=(20, 16, 4))
CELLS = GRID.shape[::-1]
UNKNOWN = [torch.nan] * 3


def steady(*velocity, frames=1):
    """Let everything have one velocity."""
    return torch.tensor(velocity).view(1, 1, 3, 1, 1, 1).expand(1, frames, 3, *CELLS).clone()


def at_rest(*seconds, valid=None):
    """Let the rig stay at the world's origin."""
    times = torch.tensor([seconds])
    known = torch.ones_like(times, dtype=torch.bool) if valid is None else torch.tensor([valid])
    return RigMotion(RigidTransform.identity(1, len(seconds)), times, known)


def boxes(centres, sizes, velocities):
    count = len(centres)
    return ClipBoxes(
        offset=torch.tensor([0, count]),
        world_from_box=RigidTransform(torch.eye(3).repeat(count, 1, 1), torch.tensor(centres)),
        size=torch.tensor(sizes),
        velocity=torch.tensor(velocities),
        category=torch.zeros(count, dtype=torch.int64),
        track=torch.arange(count),
        categories=("car",),
    )


def sweeps(*clouds, times_us, valid=None):
    counts = torch.tensor([0, *(len(cloud) for cloud in clouds)])
    return ClipLidar(
        points=torch.cat([torch.tensor(cloud).reshape(-1, 3) for cloud in clouds]),
        offset=counts.cumsum(0),
        world_from_lidar=RigidTransform.identity(1, len(clouds)),
        timestamp_us=torch.tensor([times_us]),
        valid=torch.tensor([valid or [True] * len(clouds)]),
    )


def lidar_loss(velocity, lidar, **options):
    motion = options.pop("motion", at_rest(0.0))
    return lidar_flow_loss(velocity, lidar, motion, grid=GRID, ground_m=-1.0)


def test_cells_in_boxes_have_their_velocities_along_the_rigs_axes():
    # The rig looks along the world's y: a box that drives along y drives along the rig's x.
    quarter = RigidTransform.from_rotation_vector(
        torch.tensor([0.0, 0.0, torch.pi / 2]), torch.tensor([10.0, 20.0, 0.0])
    )
    places = RigidTransform(
        torch.eye(3).repeat(2, 1, 1), torch.tensor([[10.0, 22.0, 0.0], [8.0, 20.0, 0.0]])
    )
    found = velocities_in_boxes(
        places,
        torch.tensor([[1.0, 2.0, 2.0], [1.0, 1.0, 2.0]]),
        torch.tensor([[0.0, 3.0, 0.0], UNKNOWN]),
        world_from_rig=quarter,
        grid=GRID,
    )
    x, y, _ = GRID.centres().unbind(dim=-1)
    moving = ((x - 2).abs() <= 1) & (y.abs() <= 0.5)
    unknown = (x.abs() <= 0.5) & ((y - 2).abs() <= 0.5)
    assert torch.equal(found.in_box, moving | unknown)
    assert torch.equal(found.valid, ~unknown)
    torch.testing.assert_close(
        found.velocity[moving], torch.tensor([3.0, 0.0, 0.0]).expand(int(moving.sum()), 3)
    )
    assert (found.velocity[~moving] == 0).all()


def test_without_boxes_everything_rests():
    found = velocities_in_boxes(
        RigidTransform.identity(0),
        torch.zeros(0, 3),
        torch.zeros(0, 3),
        world_from_rig=RigidTransform.identity(),
        grid=GRID,
    )
    assert found.valid.all()
    assert not found.in_box.any()
    assert (found.velocity == 0).all()


def test_boxes_and_what_rests_weigh_alike():
    car = boxes([[1.0, 0.0, 0.0]], [[1.0, 1.0, 2.0]], [[3.0, 0.0, 0.0]])
    # 3 m/s too little along one axis of three in the car, nothing wrong elsewhere;
    loss = box_flow_loss(steady(0.0, 0.0, 0.0), car, at_rest(0.0), grid=GRID)
    assert loss.item() == pytest.approx(1.0)
    # nothing wrong in the car, 3 m/s too much along one axis of three elsewhere.
    loss = box_flow_loss(steady(3.0, 0.0, 0.0), car, at_rest(0.0), grid=GRID)
    assert loss.item() == pytest.approx(1.0)
    loss = box_flow_loss(steady(1.5, 0.0, 6.0), car, at_rest(0.0), grid=GRID)
    assert loss.item() == pytest.approx((1.5 + 6) / 3 * 2)


def test_a_box_is_where_it_was_at_the_moment():
    car = boxes([[1.0, 0.0, 0.0]], [[1.0, 1.0, 2.0]], [[4.0, 0.0, 0.0]])
    x, y, _ = GRID.centres().unbind(dim=-1)
    truth = torch.zeros(1, 1, 3, *CELLS)
    # Half a second earlier, two metres behind.
    truth[0, 0, 0][((x + 1).abs() <= 0.5) & (y.abs() <= 0.5)] = 4.0
    assert box_flow_loss(truth, car, at_rest(-0.5), grid=GRID).item() == pytest.approx(0, abs=1e-6)
    assert box_flow_loss(truth, car, at_rest(0.0), grid=GRID) > 1


def test_a_box_of_unknown_velocity_has_no_say():
    car = boxes([[1.0, 0.0, 0.0]], [[1.0, 1.0, 2.0]], [UNKNOWN])
    velocity = steady(0.0, 0.0, 0.0)
    x, y, _ = GRID.centres().unbind(dim=-1)
    velocity[0, 0, :, ((x - 1).abs() <= 0.5) & (y.abs() <= 0.5)] = 7.0
    velocity.requires_grad_()
    loss = box_flow_loss(velocity, car, at_rest(-0.5), grid=GRID)
    loss.backward()
    assert loss.item() == 0
    assert velocity.grad.isfinite().all()


def test_moments_that_are_not_rebuilt_have_no_say():
    car = boxes([[1.0, 0.0, 0.0]], [[1.0, 1.0, 2.0]], [[3.0, 0.0, 0.0]])
    velocity = steady(9.0, 9.0, 9.0, frames=2)
    velocity[:, 0] = 0
    motion = at_rest(0.0, 0.0, valid=[True, False])
    assert box_flow_loss(velocity, car, motion, grid=GRID).item() == pytest.approx(1.0)
    lidar = sweeps([[0.0, 0.0, 0.0]], [[1.5, 0.0, 0.0]], times_us=[0, 500_000])
    found = lidar_flow_loss(velocity, lidar, motion, grid=GRID, ground_m=-1.0)
    assert found.item() == pytest.approx(1.5)


def test_sweeps_carried_by_the_right_velocity_are_where_they_should_be():
    # A point that moves by 1.5 m in half a second, one at rest, and one on the ground.
    early = [[0.0, 0.0, 0.0], [3.0, 3.0, 0.0], [-3.0, 0.0, -0.9]]
    late = [[1.5, 0.0, 0.0], [3.0, 3.0, 0.0], [-2.0, 0.0, -0.9]]
    x, y, _ = GRID.centres().unbind(dim=-1)
    right = steady(0.0, 0.0, 0.0)
    right[0, 0, 0][(y.abs() < 1.5) & (x.abs() < 3)] = 3.0
    for clouds, times in (((early, late), [0, 500_000]), ((late, early), [500_000, 0])):
        lidar = sweeps(*clouds, times_us=times)
        assert lidar_loss(right, lidar).item() == pytest.approx(0, abs=1e-5)
        # Both ways, one of two points is 1.5 m off.
        assert lidar_loss(steady(0.0, 0.0, 0.0), lidar).item() == pytest.approx(0.75)


def test_the_flow_of_lidar_is_learnt_down_the_slope():
    lidar = sweeps([[0.0, 0.0, 0.0]], [[0.6, 0.0, 0.0]], times_us=[0, 200_000])
    velocity = steady(0.0, 0.0, 0.0).requires_grad_()
    lidar_loss(velocity, lidar).backward()
    assert velocity.grad[0, 0, 0].sum() < 0
    torch.testing.assert_close(velocity.grad[0, 0, 1:], torch.zeros(2, *CELLS))


def test_points_without_a_partner_count_two_metres_at_most():
    lidar = sweeps([[-4.0, 0.0, 0.0]], [[4.0, 0.0, 0.0]], times_us=[0, 500_000])
    assert lidar_loss(steady(0.0, 0.0, 0.0), lidar).item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    "lidar",
    [
        sweeps([[0.0, 0.0, 0.0]], times_us=[0]),
        sweeps([], [[0.0, 0.0, 0.0]], times_us=[0, 1], valid=[False, True]),
        sweeps([[0.0, 0.0, 0.0]], [[0.0, 90.0, 0.0]], times_us=[0, 1]),
    ],
    ids=["one sweep", "a missing sweep", "a sweep beyond the grid"],
)
def test_what_cannot_be_compared_is_no_error(lidar):
    assert lidar_loss(steady(9.0, 0.0, 0.0), lidar).item() == 0


def test_many_points_are_thinned():
    many = torch.zeros(4 * MOST_POINTS + 1, 3).tolist()
    lidar = sweeps(many, many, times_us=[0, 100_000])
    assert lidar_loss(steady(1.0, 0.0, 0.0), lidar).item() == pytest.approx(0.1)


FLOW = {
    "model.temporal.kind": "scene_flow",
    "data.lidar_offsets_s": [0.0, -0.5],
    "data.tolerance_s": 0.04,
}


@pytest.mark.parametrize("name", ["flow_boxes", "flow_lidar"])
def test_a_run_that_asks_for_it_learns_velocities_from_it(name):
    config = tiny_config(**FLOW, **{f"model.loss.{name}": 2.0})
    batch = tiny_clips(config)
    if name == "flow_lidar":
        times = torch.tensor([[0, -500_000]])
        batch = replace(batch, lidar=replace(batch.lidar, timestamp_us=times))
    torch.manual_seed(0)
    method = Mim4d(config, ClipConstants((), list))
    model = method.build()
    losses = method.loss(model, batch, torch.Generator().manual_seed(0))
    assert losses.terms[f"loss_{name}"] > 0
    losses.terms[f"loss_{name}"].backward()
    assert model.velocity.velocity.weight.grad.abs().max() > 0
