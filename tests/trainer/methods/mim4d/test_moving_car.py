"""Scene flow on a street with one car that drives, learnt from what rays see alone."""

import pytest
import torch

from geomim.grids import VoxelGrid, sample_volume
from geomim.rendering import render_density
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBoxes, ClipLidar
from trainer.methods.mim4d.flow_losses import box_flow_loss, lidar_flow_loss
from trainer.methods.mim4d.rigs import RigMotion
from trainer.methods.mim4d.scene_flow import VelocityField, carry, trace
from trainer.methods.mim4d.volumes import Volumes, align

GRID = VoxelGrid((-6.0, -4.0, -1.25), (0.5, 0.5, 0.5), (24, 16, 5))
TIMES = torch.tensor([[0.0, 0.1, 0.2, 0.3]])
SPEED = torch.tensor([8.0, 0.0, 0.0])
HALF_SIZE = torch.tensor([1.5, 0.75, 0.6])


def car_from_world(points, seconds):
    return points - torch.tensor([-1.5, 0.6, -0.2]) - SPEED * (seconds - 0.15)


def world_from_rig(seconds):
    """Drive ahead at 5 m/s, turning by a fifth of a radian a second."""
    return RigidTransform.from_rotation_vector(
        torch.tensor([0.0, 0.0, 0.2 * seconds]), torch.tensor([5.0 * (seconds - 0.15), 0.0, 0.0])
    )


def street(seconds):
    """Give every cell of the rig's grid a density and a colour."""
    points = world_from_rig(seconds).apply(GRID.centres())
    own = car_from_world(points, seconds)
    car = 8 * ((HALF_SIZE - own.abs()) / 0.15).sigmoid().prod(dim=-1)
    ground = 8 * ((-0.8 - points[..., 2]) / 0.1).sigmoid()
    poles = torch.tensor([[-4.0, -2.0], [0.0, -2.5], [3.0, -2.0], [-2.0, 3.0], [2.0, 3.0]])
    apart = (points[..., None, :2] - poles).square().sum(dim=-1)
    rest = ground + 8 * (-apart / 0.3).exp().sum(dim=-1)
    colour = [0.5 + 0.5 * (2 * place + place.roll(1, -1)).sin() for place in (own, points)]
    density = car + rest
    mixed = (car[..., None] * colour[0] + rest[..., None] * colour[1]) / (density[..., None] + 1e-3)
    return torch.cat([density[..., None], mixed], dim=-1).permute(3, 0, 1, 2)


CLIP = torch.stack([street(float(seconds)) for seconds in TIMES[0]])[None]


def look(volume, generator):
    """See colour and distance along random rays into the grid."""
    towards = (torch.rand(256, 3, generator=generator) - 0.5) * torch.tensor([11.0, 7.0, 2.0])
    angle = 2 * torch.pi * torch.rand(256, generator=generator)
    start = torch.stack([5 * angle.cos(), 3 * angle.sin(), torch.full_like(angle, 1.0)], dim=-1)
    edges = torch.linspace(0, 1.5, 33)
    middles = (edges[1:] + edges[:-1]) / 2
    points = start[:, None] + middles[:, None] * (towards - start)[:, None]
    found = sample_volume(volume, points.reshape(1, -1, 3), GRID).values.reshape(256, 32, 4)
    lengths = (towards - start).norm(dim=-1, keepdim=True) * edges
    return render_density(
        found[..., 0].clamp(min=0), lengths[:, :-1], lengths[:, 1:], found[..., 1:]
    )


def rebuild(model, dropped):
    """Carry all other moments to the dropped one."""
    rig_from_world = world_from_rig(float(TIMES[0, dropped])).inverse()
    rigs = [rig_from_world @ world_from_rig(float(seconds)) for seconds in TIMES[0]]
    motion = RigidTransform(
        torch.stack([rig.rotation for rig in rigs])[None],
        torch.stack([rig.translation for rig in rigs])[None],
    )
    everywhere = torch.ones(1, 4, *GRID.shape[::-1], dtype=torch.bool)
    aligned = align(Volumes(CLIP, everywhere), GRID, target_from_source=motion)
    known = torch.arange(4)[None] != dropped
    moments = {"target_time_s": TIMES[:, dropped], "known": known, "times_s": TIMES}
    found = model(aligned, **moments)
    return found.velocity, carry(aligned, found, grid=GRID, **moments).features


def end_point_errors(velocity, dropped):
    """Return the mean error at the car's cells of where they were 0.1 s before: flow's, ego's."""
    seconds = float(TIMES[0, dropped])
    rig = world_from_rig(seconds)
    points = GRID.centres().reshape(-1, 3)
    own = car_from_world(rig.apply(points), seconds)
    points = points[(own.abs() <= HALF_SIZE).all(dim=-1)][None]
    truth = -0.1 * rig.inverse().rotate(SPEED)
    moved = trace(points, velocity, torch.tensor([[-0.1]]), grid=GRID) - points
    return (moved - truth).norm(dim=-1).mean().item(), truth.norm().item()


def see(velocity, volume, dropped, seed):
    """Compare what rays see in the carried volume and in the true one."""
    seen, truth = (
        look(each, torch.Generator().manual_seed(seed)) for each in (volume, CLIP[:, dropped])
    )
    colour = (seen.values - truth.values).abs().mean()
    return colour + 0.2 * (seen.distance - truth.distance).abs().mean()


def moment(dropped):
    """Return where the rig was, in seconds after the last moment, the key frame."""
    rig = world_from_rig(float(TIMES[0, dropped]))[None, None]
    return RigMotion(rig, TIMES[:, dropped, None] - 0.3, torch.ones(1, 1, dtype=torch.bool))


def ask_boxes(velocity, volume, dropped, seed):
    there = -car_from_world(torch.zeros(1, 3), 0.3)
    car = ClipBoxes(
        offset=torch.tensor([0, 1]),
        world_from_box=RigidTransform(torch.eye(3)[None], there),
        size=2 * HALF_SIZE[None],
        velocity=SPEED[None],
        category=torch.zeros(1, dtype=torch.int64),
        track=torch.zeros(1, dtype=torch.int64),
        categories=("car",),
    )
    return box_flow_loss(velocity[:, None], car, moment(dropped), grid=GRID)


def measure(seconds):
    """Measure points on the car and on a wall beside the street."""
    generator = torch.Generator().manual_seed(0)
    own = HALF_SIZE * (2 * torch.rand(400, 3, generator=generator) - 1)
    side = torch.randint(3, (400, 1), generator=generator)
    own = own.scatter(1, side, HALF_SIZE[side] * own.gather(1, side).sign())
    wall = torch.rand(400, 3, generator=generator) * torch.tensor([8.0, 0.1, 1.0])
    car = own - car_from_world(torch.zeros(1, 3), seconds)
    return torch.cat([car, wall + torch.tensor([-4.0, 2.5, -0.5])])


def ask_lidar(velocity, volume, dropped, seed):
    clouds = [measure(float(seconds)) for seconds in TIMES[0]]
    lidar = ClipLidar(
        points=torch.cat(clouds),
        offset=800 * torch.arange(5),
        world_from_lidar=RigidTransform.identity(1, 4),
        timestamp_us=(TIMES * 1e6).round().long(),
        valid=torch.ones(1, 4, dtype=torch.bool),
    )
    return lidar_flow_loss(velocity[:, None], lidar, moment(dropped), grid=GRID, ground_m=-1.0)


def learn(ask, *, steps):
    torch.manual_seed(0)
    model = VelocityField(4, hidden=16)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        dropped = step % 4
        error = ask(*rebuild(model, dropped), dropped, step)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    return model


@pytest.mark.parametrize(
    ("ask", "steps"),
    [
        pytest.param(see, 120, id="rendering alone", marks=pytest.mark.slow),
        pytest.param(ask_boxes, 60, id="boxes"),
        pytest.param(ask_lidar, 60, id="lidar", marks=pytest.mark.slow),
    ],
)
def test_learnt_flow_has_under_half_the_error_of_the_ego_motion(ask, steps):
    model = learn(ask, steps=steps)
    solid = street(0.1)[0] > 1
    with torch.no_grad():
        for dropped in range(4):
            velocity, _ = rebuild(model, dropped)
            flow, ego = end_point_errors(velocity, dropped)
            assert ego == pytest.approx(0.8)
            assert flow < 0.5 * ego
            # What rests is not carried along: most of what is solid is the ground.
            assert 0.1 * velocity[0].norm(dim=0)[solid].mean() < 0.25 * ego


def test_untrained_flow_has_the_error_of_the_ego_motion():
    velocity, _ = rebuild(VelocityField(4, hidden=16), 1)
    flow, ego = end_point_errors(velocity, 1)
    assert flow == pytest.approx(ego)
