import math

import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.grids import VoxelGrid, sample_volume
from geomim.lifting import lift_by_pulling, lift_by_pushing
from geomim.transforms import RigidTransform
from trainer.methods.mim4d.volumes import LiftedVolumes, Volumes, align, pick

GRID = VoxelGrid.from_bounds((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), shape=(16, 16, 4))
EDGES = torch.linspace(0.5, 8.5, 9)


def ring(batch=1, time=2, view=3, *, seed=0):
    """Make cameras that look around, not quite from one point, and their maps."""
    generator = torch.Generator().manual_seed(seed)
    yaw = torch.arange(view) * 2 * math.pi / view + torch.rand(batch, time, 1, generator=generator)
    ahead = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], dim=-1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand_as(ahead)
    rotation = torch.stack([torch.linalg.cross(down, ahead), down, ahead], dim=-1)
    return {
        "features": [torch.randn(batch, time, view, 6, 8, 12, generator=generator)],
        "depth_distribution": [
            torch.rand(batch, time, view, 8, 8, 12, generator=generator).softmax(dim=3)
        ],
        "camera": PinholeCamera(
            torch.full((batch, time, view, 2), 30.0),
            torch.tensor([24.0, 16.0]).expand(batch, time, view, 2),
            (32, 48),
        ),
        "rig_from_cam": RigidTransform(
            rotation, torch.rand(batch, time, view, 3, generator=generator)
        ),
        "valid": torch.ones(batch, time, view, dtype=torch.bool),
    }


def run(model, parts):
    parts = dict(parts)
    maps, bins = parts.pop("features"), parts.pop("depth_distribution")
    return model(maps, bins, EDGES, grid=GRID, **parts)


def make(lifting, **options):
    torch.manual_seed(0)
    return LiftedVolumes(6, 8, lifting=lifting, **options)


@pytest.mark.parametrize(
    ("lifting", "lift"), [("pull", lift_by_pulling), ("push", lift_by_pushing)]
)
def test_volumes_are_the_norm_of_the_convolution_of_what_levels_lift(lifting, lift):
    model, parts = make(lifting), ring()
    for name in ("features", "depth_distribution"):
        parts[name] += [2 * parts[name][0][..., ::2, ::2]]
    views = {"camera": parts["camera"], "ego_from_cam": parts["rig_from_cam"], "grid": GRID}
    levels = zip(parts["features"], parts["depth_distribution"], strict=True)
    lifted = sum(lift(*level, EDGES, **views).volume for level in levels)
    expected = model.norm(model.conv(lifted.flatten(0, 1))).relu().unflatten(0, (1, 2))
    torch.testing.assert_close(run(model, parts).features, expected, rtol=1e-4, atol=1e-5)


def item(parts, index):
    def pick(value):
        match value:
            case list():
                return [each[index : index + 1] for each in value]
            case PinholeCamera():
                return PinholeCamera(
                    value.focal[index : index + 1],
                    value.principal_point[index : index + 1],
                    value.size,
                )
            case _:
                return value[index : index + 1]

    return {name: pick(value) for name, value in parts.items()}


@pytest.mark.parametrize("lifting", ["pull", "push"])
@pytest.mark.parametrize("norm", ["group", "volume"])
def test_two_rigs_in_a_batch_are_lifted_as_each_alone(lifting, norm):
    model, parts = make(lifting, norm=norm), ring(batch=2)
    together = run(model, parts)
    for index in range(2):
        alone = run(model, item(parts, index))
        torch.testing.assert_close(together.features[index : index + 1], alone.features)
        assert torch.equal(together.seen[index : index + 1], alone.seen)


@pytest.mark.parametrize("lifting", ["pull", "push"])
def test_what_is_lifted_to_a_depth_is_sampled_there(lifting):
    # One camera half a metre ahead of the middle, all it sees 4 m away: at the centres of the
    # cells from 4 to 5 m. With corners for centres it would be half a cell off.
    model = make(lifting)
    model.conv = torch.nn.Conv3d(6, 6, 1, bias=False)
    model.norm = torch.nn.Identity()
    with torch.no_grad():
        model.conv.weight.copy_(torch.eye(6).view(6, 6, 1, 1, 1))
    parts = ring(time=1, view=1)
    ahead = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    distribution = torch.zeros(1, 1, 1, 8, 8, 12)
    distribution[:, :, :, 3] = 1
    parts |= {
        "features": [torch.ones(1, 1, 1, 6, 8, 12)],
        "depth_distribution": [distribution],
        "rig_from_cam": RigidTransform(ahead, torch.tensor([0.5, 0.0, 1.0]))[None, None, None],
    }
    volume = run(model, parts).features[0, 0].detach()
    along = torch.linspace(0, 8, 161)
    points = torch.stack([along, torch.full_like(along, 0.5), torch.full_like(along, 1.5)], dim=-1)
    found = sample_volume(volume, points, GRID).values[:, 0]
    assert found.max() > 0
    assert (found * along).sum() / found.sum() == pytest.approx(4.5, abs=0.02)


@pytest.mark.parametrize("lifting", ["pull", "push"])
def test_a_missing_view_leaves_no_trace_whatever_it_holds(lifting):
    model, parts = make(lifting), ring()
    parts["valid"][0, 0, 1] = False
    clean = run(model, parts)
    parts["features"][0][0, 0, 1] = torch.nan
    parts["depth_distribution"][0][0, 0, 1] = torch.inf
    parts["features"][0].requires_grad_()
    dirty = run(model, parts)
    assert torch.equal(clean.features, dirty.features)
    dirty.features.square().sum().backward()
    gradient = parts["features"][0].grad
    assert (gradient[0, 0, 1] == 0).all()
    assert gradient.isfinite().all()
    parts["valid"][0, 0, 1] = True
    parts["features"][0] = torch.zeros(1, 2, 3, 6, 8, 12)
    assert run(model, parts).seen[0, 0].sum() > clean.seen[0, 0].sum()


@pytest.mark.parametrize("lifting", ["pull", "push"])
def test_a_missing_moment_is_zero_and_nowhere_seen(lifting):
    parts = ring()
    parts["valid"][0, 1] = False
    volumes = run(make(lifting), parts)
    assert (volumes.features[0, 1] == 0).all()
    assert not volumes.seen[0, 1].any()
    assert volumes.seen[0, 0].any()
    assert (volumes.features[0, 0] > 0).any()


def test_levels_are_summed():
    model, parts = make("pull"), ring()
    maps = parts["features"][0]
    one = run(model, parts | {"features": [3 * maps]})
    parts |= {"features": [maps, 2 * maps], "depth_distribution": parts["depth_distribution"] * 2}
    torch.testing.assert_close(run(model, parts).features, one.features)


def test_batch_norm_is_there_for_those_who_want_the_release():
    assert isinstance(make("pull", norm="batch").norm, torch.nn.BatchNorm3d)


def test_no_level_is_refused():
    with pytest.raises(ValueError, match="features must be of at least one level"):
        run(make("pull"), ring() | {"features": [], "depth_distribution": []})


def smooth(points):
    x, y, z = points.unbind(dim=-1)
    return torch.stack([(x / 6).sin() + (y / 5).cos(), 0.2 * z + (x * y / 40).sin()])


def test_a_static_world_is_aligned_under_two_degrees_and_a_metre_and_a_half():
    # The vehicle drives 1.5 m forward and turns left by two degrees: the release's defect here is
    # two cells and more everywhere.
    grid = VoxelGrid.from_bounds((-20.0, -20.0, -2.0), (20.0, 20.0, 2.0), shape=(80, 80, 8))
    yaw = math.radians(2)
    world_from_now = RigidTransform.from_rotation_vector(
        torch.tensor([0.0, 0.0, yaw]), torch.tensor([1.5, 0.0, 0.0])
    )
    then, now = smooth(grid.centres()), smooth(world_from_now.apply(grid.centres()))
    seen = torch.ones(1, 1, 8, 80, 80, dtype=torch.bool)
    moved = align(
        Volumes(then[None, None], seen),
        grid,
        target_from_source=world_from_now.inverse()[None, None],
    )
    index = grid.to_index(world_from_now.apply(grid.centres()))
    inside = ((index >= 0.5) & (index <= index.new_tensor(grid.shape) - 0.5)).all(dim=-1)
    # Trilinear interpolation errs by at most h^2 / 8 times the second derivatives along x and y.
    bound = 0.5**2 / 8 * (0.5**2 + 0.5**2)
    away = (moved.features[0, 0] - now).abs().amax(dim=0)
    assert away[inside].max() < bound
    assert inside.float().mean() > 0.9
    assert moved.seen[0, 0][inside].float().mean() > 0.99
    assert not moved.seen[0, 0, :, :, -2:].any()


def test_what_was_not_seen_is_not_seen_after_alignment():
    seen = torch.zeros(1, 1, 4, 16, 16, dtype=torch.bool)
    seen[..., 8:] = True
    step = RigidTransform(torch.eye(3), torch.tensor([-2.0, 0.0, 0.0]))[None, None]
    moved = align(Volumes(torch.rand(1, 1, 2, 4, 16, 16), seen), GRID, target_from_source=step)
    assert torch.equal(moved.seen[0, 0, 0, 0], torch.tensor([False] * 6 + [True] * 8 + [False] * 2))


def test_aligned_features_are_found_at_the_moved_point():
    features = torch.rand(1, 1, 2, 4, 16, 16)
    motion = RigidTransform(torch.eye(3), torch.tensor([1.0, -2.0, 0.0]))[None, None]
    seen = torch.ones(1, 1, 4, 16, 16, dtype=torch.bool)
    moved = align(Volumes(features, seen), GRID, target_from_source=motion)
    points = torch.tensor([[0.5, 0.5, 1.5], [-3.5, 2.5, 0.5]])
    before = sample_volume(features[0, 0], points, GRID).values
    behind = sample_volume(moved.features[0, 0], motion[0, 0].apply(points), GRID).values
    torch.testing.assert_close(before, behind)


def test_each_clip_gives_the_moments_asked_of_it():
    volumes = Volumes(torch.rand(2, 3, 4, 1, 2, 5), torch.rand(2, 3, 1, 2, 5) > 0.5)
    picked = pick(volumes, torch.tensor([[2, 0], [1, 1]]))
    for clip, places in enumerate([[2, 0], [1, 1]]):
        assert torch.equal(picked.features[clip], volumes.features[clip, places])
        assert torch.equal(picked.seen[clip], volumes.seen[clip, places])
