import math

import pytest
import torch
from hypothesis import given

from geomim.kernels.selection import use_kernels
from geomim.raycasting import PrimitiveKind, Primitives, cast_rays
from geomim.transforms import RigidTransform
from tests.geomim.strategies import BATCHES, normal, seeds

BOX, SPHERE, CYLINDER = PrimitiveKind


def place(*kinds, at=(0.0, 0.0, 0.0), half=(1.0, 1.0, 1.0)):
    count = len(kinds)
    pose = RigidTransform(
        torch.eye(3).expand(count, 3, 3), torch.tensor(at).expand(count, 3).contiguous()
    )
    return Primitives(torch.tensor(kinds), pose, torch.tensor(half).expand(count, 3))


def scene(seed, count=12):
    generator = torch.Generator().manual_seed(seed)
    return Primitives(
        torch.randint(3, (count,), generator=generator),
        RigidTransform.exp(2 * normal(count, 6, seed=seed)),
        torch.rand(count, 3, generator=generator, dtype=torch.float64) + 0.1,
    )


def cast(origin, direction, primitives):
    return cast_rays(torch.tensor(origin), torch.tensor(direction), primitives)


@given(seed=seeds)
def test_the_compiled_kernel_equals_the_reference(seed):
    origins, directions = 3 * normal(2, 200, 3, seed=seed)
    compiled = cast_rays(origins, directions, scene(seed))
    with use_kernels("reference"):
        reference = cast_rays(origins, directions, scene(seed))
    torch.testing.assert_close(compiled, reference)


@given(seed=seeds)
def test_every_hit_lies_on_its_primitive_and_faces_the_ray(seed):
    origins, directions = 3 * normal(2, 200, 3, seed=seed)
    primitives = scene(seed)
    hits = cast_rays(origins, directions, primitives)
    points = origins + hits.distance[:, None] * directions
    unit = primitives.world_from_primitive[hits.primitive].inverse().apply(points)
    x, y, z = (unit / primitives.half_size[hits.primitive]).unbind(-1)
    box = torch.stack([x, y, z]).abs().amax(0)
    tube = torch.maximum((x * x + y * y).sqrt(), z.abs())
    kind = primitives.kind[hits.primitive]
    reach = torch.where(
        kind == BOX, box, torch.where(kind == SPHERE, (x * x + y * y + z * z).sqrt(), tube)
    )
    torch.testing.assert_close(reach[hits.valid], torch.ones_like(reach[hits.valid]))
    assert ((hits.normal_world * directions).sum(-1)[hits.valid] < 0).all()
    torch.testing.assert_close(hits.normal_world.norm(dim=-1), hits.valid.double())


@pytest.mark.parametrize("batch", BATCHES)
def test_rays_come_in_any_batch_and_origins_broadcast(batch):
    origins, directions = torch.tensor([0.0, 0.0, -3.0]), torch.tensor([0.0, 0.0, 1.0])
    hits = cast_rays(origins, directions.expand(*batch, 3), place(SPHERE))
    assert hits.distance.shape == hits.primitive.shape == hits.valid.shape == batch
    torch.testing.assert_close(hits.distance, torch.full(batch, 2.0))
    torch.testing.assert_close(hits.normal_world, torch.tensor([0.0, 0.0, -1.0]).expand(*batch, 3))


@pytest.mark.parametrize("kind", PrimitiveKind)
def test_a_ray_from_inside_meets_the_far_side_from_within(kind):
    hits = cast([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], place(kind, half=(1.0, 2.0, 3.0)))
    assert hits.distance == 3
    assert hits.normal_world.tolist() == [0, 0, -1]


@pytest.mark.parametrize("kind", PrimitiveKind)
def test_distance_counts_in_lengths_of_the_direction(kind):
    assert cast([0.0, 0.0, -4.0], [0.0, 0.0, 0.5], place(kind)).distance == 6


@pytest.mark.parametrize(
    ("origin", "direction"),
    [
        ([3.0, 0.0, -4.0], [0.0, 0.0, 1.0]),  # beside
        ([0.0, 0.0, -4.0], [0.0, 0.0, -1.0]),  # behind
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),  # no direction
        ([math.nan, 0.0, -4.0], [0.0, 0.0, 1.0]),
        ([0.0, 0.0, -4.0], [0.0, math.nan, 1.0]),
        ([0.0, 0.0, -math.inf], [0.0, 0.0, 1.0]),
        ([0.0, 0.0, -4.0], [0.0, 0.0, math.inf]),
    ],
)
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_a_miss_is_zero_and_minus_one(origin, direction, kernels):
    with use_kernels(kernels):
        hits = cast(origin, direction, place(*PrimitiveKind))
    assert not hits.valid
    assert (hits.distance, hits.primitive) == (0, -1)
    assert hits.normal_world.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("height", "hit"), [(0.999, True), (1.0, True), (1.001, False)])
def test_a_ray_parallel_to_a_slab_hits_up_to_its_plane(height, hit, kernels):
    with use_kernels(kernels):
        for kind in (BOX, CYLINDER):
            assert cast([-4.0, 0.0, height], [1.0, 0.0, 0.0], place(kind)).valid == hit


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("offset", "hit"), [(0.999, True), (1.0, True), (1.001, False)])
def test_a_tangent_touches_a_round_surface(offset, hit, kernels):
    with use_kernels(kernels):
        for kind in (SPHERE, CYLINDER):
            hits = cast([-4.0, offset, 0.0], [1.0, 0.0, 0.0], place(kind))
            assert hits.valid == hit
        along = cast([0.0, offset, -4.0], [0.0, 0.0, 1.0], place(CYLINDER))
        assert along.valid == hit


def test_a_ray_that_leaves_a_surface_does_not_hit_it():
    assert not cast([0.0, 0.0, 1.0], [0.0, 0.0, 1.0], place(*PrimitiveKind)).valid


def test_a_sphere_from_afar_keeps_its_precision():
    origin = torch.tensor([0.0, 0.6, -1e6], dtype=torch.float64)
    hits = cast_rays(origin, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), place(SPHERE))
    torch.testing.assert_close(
        hits.distance, torch.tensor(1e6 - 0.8, dtype=torch.float64), rtol=0, atol=1e-8
    )


def test_the_nearest_primitive_wins_and_the_first_of_equals():
    behind = place(BOX, BOX, BOX, at=((0.0, 0.0, 5.0), (0.0, 0.0, 3.0), (0.0, 0.0, 3.0)))
    assert cast([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], behind).primitive == 1


def test_an_ellipsoids_normal_is_not_its_radius():
    hits = cast([1.0, 0.0, -4.0], [0.0, 0.0, 1.0], place(SPHERE, half=(2.0, 1.0, 1.0)))
    # The gradient of (x/2)² + z² at (1, -sqrt(3)/2).
    expected = torch.nn.functional.normalize(torch.tensor([0.25, 0.0, -math.sqrt(3) / 2]), dim=0)
    torch.testing.assert_close(hits.normal_world, expected)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_no_rays_and_no_primitives_are_fine(kernels):
    with use_kernels(kernels):
        assert cast_rays(torch.zeros(0, 3), torch.zeros(0, 3), place(BOX)).distance.shape == (0,)
        empty = Primitives(
            torch.zeros(0, dtype=torch.int64), RigidTransform.identity(0), torch.zeros(0, 3)
        )
        assert not cast([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], empty).valid


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(threads):
    origins, directions = 3 * normal(2, 500, 3, seed=1)
    expected = cast_rays(origins, directions, scene(1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(map(torch.equal, cast_rays(origins, directions, scene(1)), expected))
    finally:
        torch.set_num_threads(before)


def test_the_operator_passes_torchs_own_checks():
    origins, directions = 3 * normal(2, 20, 3, seed=2)
    unit = RigidTransform.exp(normal(2, 6, seed=3)).matrix()[:, :3]
    arguments = (origins, directions, torch.tensor([0, 1]), unit)
    torch.library.opcheck(torch.ops.geomim.cast_rays.default, arguments)


def test_origins_and_directions_may_differ_in_precision():
    hits = cast_rays(torch.tensor([0.0, 0, -4]), torch.tensor([0.0, 0, 1]).double(), place(BOX))
    assert hits.distance.dtype == torch.float64
    assert hits.distance == 3


def test_half_precision_is_refused():
    ray = torch.ones(3, dtype=torch.float16)
    with pytest.raises(TypeError, match=r"origins must be float32 or float64, got torch.float16"):
        cast_rays(ray, ray, place(BOX))


def test_primitives_must_match_in_number():
    with pytest.raises(ValueError, match=r"must hold \(2,\) primitives like kind, got \(1,\) and"):
        Primitives(torch.tensor([0, 1]), RigidTransform.identity(1), torch.ones(2, 3))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind must be one of .*BOX.* got \[3\]"):
        place(3)


@pytest.mark.parametrize("half", [0.0, -1.0, math.nan, math.inf])
def test_half_sizes_must_be_positive_and_finite(half):
    with pytest.raises(ValueError, match="half_size must be positive and finite, got"):
        place(BOX, half=(1.0, half, 1.0))
