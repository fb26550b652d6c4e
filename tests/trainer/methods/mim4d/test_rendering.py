import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.grids import VoxelGrid
from geomim.rays import Rays
from geomim.transforms import RigidTransform
from trainer.methods.mim4d.field import SdfField
from trainer.methods.mim4d.rendering import SamplePlan, render_image, render_rays

GRID = VoxelGrid.from_bounds((-4.0, -3.0, -1.0), (4.0, 3.0, 3.0), shape=(8, 6, 4))
PLAN = SamplePlan(samples=12, importance=6)


def make(channels=5, grid=GRID, **options):
    torch.manual_seed(0)
    return SdfField(channels, grid, **options)


def volumes(batch=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 5, 4, 6, 8, generator=generator, dtype=dtype)


def rays(batch=1, count=9, dtype=torch.float32, seed=2):
    generator = torch.Generator().manual_seed(seed)
    origins = torch.rand(batch, count, 3, generator=generator, dtype=dtype)
    return Rays.along(origins, torch.randn(batch, count, 3, generator=generator, dtype=dtype))


def test_a_ray_that_misses_the_box_is_zero_and_gives_no_gradient():
    away = Rays.along(
        torch.tensor([[[0.0, 0, 9], [0, 0, 1]]]), torch.tensor([[[1.0, 0, 0], [1, 0, 0]]])
    )
    volume = volumes().requires_grad_()
    seen = render_rays(make(), volume, away, plan=PLAN)
    assert seen.valid.tolist() == [[False, True]]
    for part in (seen.rgb, seen.distance, seen.normal, seen.opacity, seen.weights):
        assert (part[0, 0] == 0).all()
        assert part.isfinite().all()
    (seen.rgb[0, 0].sum() + seen.distance[0, 0] + seen.normal[0, 0].sum()).backward()
    assert (volume.grad == 0).all()


def test_there_may_be_no_rays():
    volume = volumes().requires_grad_()
    seen = render_rays(make(), volume, rays(count=0), plan=PLAN)
    assert seen.rgb.shape == (1, 0, 3)
    assert seen.weights.shape == (1, 0, 18)
    seen.rgb.sum().backward()


def test_two_scenes_in_a_batch_are_rendered_as_each_alone():
    field, volume, both = make(), volumes(2), rays(2)
    together = render_rays(field, volume, both, plan=PLAN)
    for index in range(2):
        part = slice(index, index + 1)
        one = Rays(both.origins[part], both.directions[part], both.valid[part])
        alone = render_rays(field, volume[part], one, plan=PLAN)
        for mine, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(mine[part], theirs)


def test_autocast_changes_nothing():
    field, volume = make(), volumes()
    exact = render_rays(field, volume, rays(), plan=PLAN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = render_rays(field, volume, rays(), plan=PLAN)
    assert all(torch.equal(a, b) for a, b in zip(exact, cast, strict=True))
    assert cast.rgb.dtype == torch.float32


def test_a_generator_repeats_its_samples():
    field, volume = make(), volumes()

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return render_rays(field, volume, rays(), plan=PLAN, generator=generator)

    assert torch.equal(run(0).places, run(0).places)
    assert not torch.equal(run(0).places, run(1).places)
    assert (run(0).places.diff(dim=-1) >= 0).all()


def test_nothing_nearer_than_a_metre_is_looked_at():
    assert render_rays(make(), volumes(), rays(), plan=PLAN).places.min() >= 1


def test_gradients_are_finite_differences_in_double_precision():
    field, volume, some = make().double(), volumes(dtype=torch.float64), rays(dtype=torch.float64)
    plan = SamplePlan(samples=8, importance=0)
    with torch.no_grad():
        field.log_inv_s.fill_(0.05)

    def measure():
        seen = render_rays(field, volume, some, plan=plan)
        eikonal = (seen.gradient.norm(dim=-1) - 1).square().mean()
        return seen.rgb.sum() + seen.distance.sum() + seen.normal.sum() + eikonal

    volume.requires_grad_()
    tensors = [volume, field.log_inv_s, *field.sdf_mlp.parameters(), *field.colour_mlp.parameters()]
    gradients = torch.autograd.grad(measure(), tensors, materialize_grads=True)
    generator = torch.Generator().manual_seed(3)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        along = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            tensor += 1e-6 * along
            above = measure()
            tensor -= 2e-6 * along
            below = measure()
            tensor += 1e-6 * along
        slope = (above - below) / 2e-6
        assert slope.item() == pytest.approx((gradient * along).sum().item(), rel=1e-4, abs=1e-6)


def test_an_untrained_field_shows_the_walls_of_its_room():
    field = make()
    with torch.no_grad():
        field.log_inv_s.fill_(0.7)
    ahead = Rays.along(torch.tensor([[[0.0, 0, 1.2]]]), torch.tensor([[[1.0, 0, 0]]]))
    seen = render_rays(field, torch.zeros(1, 5, 4, 6, 8), ahead, plan=SamplePlan())
    assert seen.distance.item() == pytest.approx(3.6, abs=0.1)
    assert seen.opacity.item() > 0.99  # of a wall where the ray ends half would be seen
    assert seen.normal[0, 0, 0].item() < -0.95


def test_a_sharp_floor_is_met_where_it_is_near_and_far():
    grid = VoxelGrid.from_bounds((-50.0, -50.0, -5.0), (50.0, 50.0, 3.0), shape=(8, 8, 4))
    field = make(grid=grid, ground_m=-1.5)
    with torch.no_grad():
        field.sdf_mlp.layers[-1].get_parameter("weight")[0] = 0
        field.log_inv_s.fill_(0.7)
    ahead = torch.tensor([3.0, 5, 8, 12, 20, 30]).repeat(32)
    aims = torch.stack([ahead, torch.zeros(192), torch.full((192,), -1.5)], dim=-1)
    seen = render_rays(
        field,
        torch.zeros(1, 5, 4, 8, 8),
        Rays.along(torch.zeros(1, 192, 3), aims[None]),
        plan=PLAN,
        generator=torch.Generator().manual_seed(0),
    )
    assert (seen.distance[0] / aims.norm(dim=-1) - 1).abs().mean().item() < 0.01


def test_an_image_is_what_its_rays_are():
    field, volume = make(), volumes()
    camera = PinholeCamera(torch.full((1, 2, 2), 20.0), torch.tensor([[[12.0, 8.0]] * 2]), (16, 24))
    turn = RigidTransform.from_rotation_vector(
        torch.tensor([[[0.0, 0, 0], [0.5, 0, 0]]]), torch.zeros(1, 2, 3)
    )
    views = {"camera": camera, "rig_from_cam": turn, "plan": PLAN}
    whole = render_image(field, volume, stride=4, **views)
    assert whole.rgb.shape == (1, 2, 3, 4, 6)
    for mine, theirs in zip(
        whole, render_image(field, volume, stride=4, chunk=5, **views), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    pixels = torch.tensor([[[[2.5, 6.5]], [[10.5, 14.5]]]])
    directions = turn.rotate(camera.ray_directions(pixels).directions)
    some = Rays.along(torch.zeros(1, 2, 3), directions.flatten(1, 2))
    seen = render_rays(field, volume, some, plan=PLAN)
    torch.testing.assert_close(whole.rgb[0, 0, :, 1, 0], seen.rgb[0, 0])
    torch.testing.assert_close(whole.distance[0, 1, 3, 2], seen.distance[0, 1])
    slant = 20 / (1.5**2 + 6.5**2 + 20**2) ** 0.5
    torch.testing.assert_close(whole.depth[0, 1, 3, 2], slant * seen.distance[0, 1])
    assert not whole.rgb.requires_grad


def test_a_ball_can_be_learnt_from_its_colours_and_distances():
    # A red ball of 1.2 m before white walls: a volume and both networks learn it from rays alone.
    grid = VoxelGrid.from_bounds((-4.0,) * 3, (4.0,) * 3, shape=(16, 16, 16))
    field = make(8, grid, ground_m=-4.0)
    volume = torch.zeros(1, 8, 16, 16, 16, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam([volume, *field.parameters()], lr=0.01)
    errors = []
    for _ in range(200):
        origins = torch.nn.functional.normalize(torch.randn(1, 64, 3, generator=generator), dim=-1)
        aims = torch.randn(1, 64, 3, generator=generator)
        some = Rays.along(3.4 * origins, aims - 3.4 * origins)
        along = -(some.origins * some.directions).sum(-1)
        inside = 1.2**2 - (some.origins.square().sum(-1) - along.square())
        hit = inside > 0
        seen = render_rays(
            field, volume, some, plan=SamplePlan(samples=20, importance=10), generator=generator
        )
        walls = torch.where(some.directions > 0, 3.6 - some.origins, -3.6 - some.origins)
        wall = (walls / some.directions).amin(dim=-1)
        truth = torch.where(hit, along - inside.clamp(min=0).sqrt(), wall)
        rgb = torch.where(hit[..., None], torch.tensor([0.8, 0.1, 0.1]), torch.ones(3))
        colour, depth = (seen.rgb - rgb).abs().mean(), (seen.distance - truth).abs().mean()
        optimiser.zero_grad()
        (10 * colour + depth).backward()
        optimiser.step()
        errors.append((colour.item(), depth.item()))
    first, last = (torch.tensor(part).mean(dim=0) for part in (errors[:5], errors[-10:]))
    assert last[0] < 0.4 * first[0]
    assert last[1] < 0.6 * first[1]
    towards = Rays.along(torch.tensor([[[3.0, 0, 0]]]), torch.tensor([[[-1.0, 0, 0]]]))
    seen = render_rays(field, volume, towards, plan=SamplePlan())
    assert seen.distance.item() == pytest.approx(1.8, abs=0.3)
    assert seen.rgb[0, 0, 1].item() < 0.4
