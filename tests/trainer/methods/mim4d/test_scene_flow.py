import pytest
import torch

from geomim.grids import VoxelGrid
from trainer.methods.mim4d.scene_flow import (
    Motion,
    VelocityField,
    carry,
    trace,
)
from trainer.methods.mim4d.volumes import Volumes

GRID = VoxelGrid.from_bounds((-5.0, -4.0, -1.0), (5.0, 4.0, 1.0), shape=(20, 16, 4))
CELLS = GRID.shape[::-1]
NOW = torch.tensor([0.4])


def blob(centre):
    return (-(GRID.centres() - torch.tensor(centre)).square().sum(dim=-1) / 0.8).exp()


def centroid(volume):
    return (volume[..., None] * GRID.centres()).sum(dim=(0, 1, 2)) / volume.sum()


def clip(*volumes):
    features = torch.stack([torch.stack([volume, 2 * volume]) for volume in volumes])[None]
    return Volumes(features, torch.ones(1, len(volumes), *CELLS, dtype=torch.bool))


def still(source, velocity=(0.0, 0.0, 0.0)):
    field = torch.tensor(velocity).reshape(1, 3, 1, 1, 1).expand(1, 3, *CELLS)
    return Motion(field, torch.zeros(1, source, *CELLS))


def move(volumes, motion, times, **options):
    times = torch.tensor([times])
    known = options.pop("known", torch.ones_like(times, dtype=torch.bool))
    return carry(
        volumes, motion, times_s=times, target_time_s=NOW, known=known, grid=GRID, **options
    )


def turning(rate=0.8):
    x, y, z = GRID.centres().unbind(dim=-1)
    return rate * torch.stack([-y, x, 0 * z])[None]


@pytest.mark.parametrize("integrator", ["euler", "midpoint"])
def test_a_blob_of_constant_velocity_lands_where_it_should_in_metres(integrator):
    # Seen 0.4 s before and 0.2 s behind the instant, in either order.
    early, late = blob([-1.6, 0.8, 0.0]), blob([1.4, -0.4, 0.0])
    motion = still(2, (5.0, -2.0, 0.0))
    for volumes, times in ((clip(early, late), (0.0, 0.6)), (clip(late, early), (0.6, 0.0))):
        carried = move(volumes, motion, times, integrator=integrator)
        torch.testing.assert_close(
            centroid(carried.features[0, 0]), torch.tensor([0.4, 0.0, 0.0]), atol=0.03, rtol=0
        )
        torch.testing.assert_close(carried.features[0, 1], 2 * carried.features[0, 0])


def test_without_velocity_features_are_the_mean_of_all_moments():
    volumes = clip(*torch.rand(3, *CELLS))
    carried = move(volumes, still(3), (0.0, 1.0, -2.0))
    torch.testing.assert_close(carried.features, volumes.features.mean(dim=1))
    assert carried.seen.all()


def test_one_moment_without_velocity_stays_as_it_is():
    volumes = clip(torch.rand(CELLS))
    torch.testing.assert_close(move(volumes, still(1), (3.0,)).features, volumes.features[:, 0])


def test_moments_that_are_unknown_or_unseen_take_no_part():
    volumes = clip(*torch.rand(3, *CELLS))
    volumes.features[0, 1] = torch.nan
    volumes.seen[0, 2, ..., :5] = False
    known = torch.tensor([[True, False, True]])
    carried = move(volumes, still(3), (0.0, torch.nan, 1.0), known=known)
    first, last = volumes.features[0, 0], volumes.features[0, 2]
    torch.testing.assert_close(carried.features[0, ..., :5], first[..., :5])
    torch.testing.assert_close(carried.features[0, ..., 5:], ((first + last) / 2)[..., 5:])
    nothing = move(volumes, still(3), (0.0, 0.0, 0.0), known=torch.zeros_like(known))
    assert (nothing.features == 0).all()
    assert not nothing.seen.any()


def test_what_comes_from_beyond_the_grid_is_not_seen():
    carried = move(clip(torch.ones(CELLS)), still(1, (5.0, 0.0, 0.0)), (0.0,))
    # Two metres are four cells.
    assert not carried.seen[..., :4].any()
    assert carried.seen[..., 4:].all()
    torch.testing.assert_close(carried.features[0, 0, ..., 4:], torch.ones(4, 16, 16))


def test_confidence_weighs_moments():
    volumes = clip(torch.zeros(CELLS), torch.ones(CELLS))
    confidence = torch.tensor([0.0, 3.0]).log1p()[None, :, None, None, None]
    motion = still(2)._replace(confidence=confidence.expand(1, 2, *CELLS))
    carried = move(volumes, motion, (0.0, 1.0))
    torch.testing.assert_close(carried.features[0, 0], torch.full(CELLS, 0.8))


def test_time_reversal_leads_points_back():
    points = torch.tensor([[[1.0, 1.0, 0.2], [-2.0, 0.5, -0.3], [0.0, 2.5, 0.0]]])
    there = trace(points, turning(), torch.tensor([[0.5]]), grid=GRID)
    back = trace(there, turning(), torch.tensor([[-0.5]]), grid=GRID)
    assert (there - points).norm(dim=-1).min() > 0.5
    assert (back - points).norm(dim=-1).max() < 0.005


def test_midpoint_steps_follow_a_turn():
    points = torch.tensor([[[2.0, 0.0, 0.0]]])
    angle = torch.tensor(0.4)
    exact = 2 * torch.stack([angle.cos(), angle.sin(), torch.tensor(0.0)])
    half_second = torch.tensor([[0.5]])
    errors = {
        (integrator, steps): (
            trace(points, turning(), half_second, grid=GRID, steps=steps, integrator=integrator)
            - exact
        ).norm()
        for integrator in ("euler", "midpoint")
        for steps in (1, 2, 4)
    }
    assert errors["midpoint", 4] < 2e-3
    assert errors["midpoint", 2] < errors["midpoint", 1] / 3.5
    assert errors["midpoint", 2] < errors["euler", 2] / 10


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        trace(torch.zeros(1, 1, 3), turning(), torch.ones(1, 1), grid=GRID, steps=0)


def test_velocity_is_learnt_from_where_features_end_up():
    early, truth = clip(blob([-1.0, 0.0, 0.0])), blob([0.2, -0.6, 0.0])
    velocity = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([velocity], lr=0.2)
    for _ in range(40):
        field = velocity.reshape(1, 3, 1, 1, 1).expand(1, 3, *CELLS)
        carried = move(early, still(1)._replace(velocity=field), (0.0,))
        optimiser.zero_grad()
        (carried.features[0, 0] - truth).square().mean().backward()
        optimiser.step()
    torch.testing.assert_close(velocity.detach(), torch.tensor([3.0, -1.5, 0.0]), atol=0.25, rtol=0)


def net(**options):
    torch.manual_seed(0)
    return VelocityField(2, hidden=6, **options)


def predict(model, volumes, times, known=None):
    times = torch.tensor(times)
    known = torch.ones_like(times, dtype=torch.bool) if known is None else known
    return model(volumes, times, NOW.expand(len(times)), known)


def awake(model):
    for layer in (model.velocity, model.confidence):
        torch.nn.init.normal_(layer.weight)
    return model


def test_an_untrained_network_moves_nothing_and_can_learn_to():
    model, volumes = net(), clip(*torch.rand(2, *CELLS))
    motion = predict(model, volumes, [[0.0, 0.2]])
    assert (motion.velocity == 0).all()
    assert (motion.confidence == 0).all()
    carried = move(volumes, motion, (0.0, 0.2))
    torch.testing.assert_close(carried.features, volumes.features.mean(dim=1))
    carried.features.square().sum().backward()
    assert model.velocity.weight.grad.abs().max() > 0
    assert model.confidence.weight.grad.abs().max() > 0


@pytest.mark.parametrize("rate", [2e-3, 1e-2])
def test_learning_that_nearly_all_rests_leaves_it_able_to_learn_more(rate):
    model, generator = net(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(40):
        volumes = clip(torch.rand(*CELLS, generator=generator))
        velocity = predict(model, volumes, [[0.5]]).velocity
        truth = torch.zeros_like(velocity)
        truth[..., 2:4, 2:4] = 5 * torch.randn(3, 1, 1, 1, generator=generator)
        optimiser.zero_grad()
        (velocity - truth).abs().mean().backward()
        optimiser.step()
    assert model.velocity.weight.grad.abs().max() > 1e-3


def test_the_order_of_moments_does_not_matter_but_their_times_do():
    model, volumes = awake(net()), clip(*torch.rand(3, *CELLS))
    motion = predict(model, volumes, [[0.0, 0.2, -0.3]])
    order = [2, 0, 1]
    shuffled = Volumes(volumes.features[:, order], volumes.seen[:, order])
    again = predict(model, shuffled, [[-0.3, 0.0, 0.2]])
    torch.testing.assert_close(again.velocity, motion.velocity)
    torch.testing.assert_close(again.confidence, motion.confidence[:, order])
    other = predict(model, volumes, [[0.2, 0.0, -0.3]])
    assert (other.velocity - motion.velocity).abs().max() > 1e-3


def test_a_moment_that_is_unknown_does_not_reach_velocities():
    model, volumes = awake(net()), clip(*torch.rand(3, *CELLS))
    pair = Volumes(volumes.features[:, :2], volumes.seen[:, :2])
    motion = predict(model, pair, [[0.0, 0.2]])
    volumes.features[0, 2] = torch.nan
    known = torch.tensor([[True, True, False]])
    with_lost = predict(model, volumes, [[0.0, 0.2, torch.nan]], known)
    torch.testing.assert_close(with_lost.velocity, motion.velocity)
    single = predict(model, Volumes(pair.features[:, :1], pair.seen[:, :1]), [[0.0]])
    assert single.velocity.isfinite().all()


def test_two_clips_in_a_batch_move_as_each_alone():
    model = awake(net())
    volumes = Volumes(torch.rand(2, 2, 2, *CELLS), torch.rand(2, 2, *CELLS) < 0.9)
    times = [[0.0, 0.2], [0.3, -0.1]]
    motion = predict(model, volumes, times)
    for index in range(2):
        part = slice(index, index + 1)
        alone = predict(model, Volumes(volumes.features[part], volumes.seen[part]), times[part])
        torch.testing.assert_close(alone.velocity, motion.velocity[part])
        mine = move(Volumes(volumes.features[part], volumes.seen[part]), alone, tuple(times[index]))
        both = carry(
            volumes,
            motion,
            times_s=torch.tensor(times),
            target_time_s=NOW.expand(2),
            known=torch.ones(2, 2, dtype=torch.bool),
            grid=GRID,
        )
        torch.testing.assert_close(mine.features, both.features[part])


def test_no_velocity_is_larger_than_the_largest():
    model = awake(net(largest_mps=2.0))
    torch.nn.init.constant_(model.velocity.bias, 100.0)
    velocity = predict(model, clip(torch.rand(CELLS)), [[0.0]]).velocity
    assert velocity.abs().max() <= 2
    assert velocity.abs().max() > 1.9
