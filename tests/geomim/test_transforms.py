import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.transforms import RigidTransform
from tests.geomim.strategies import (
    BATCHES,
    batched,
    batches,
    normal,
    rigid_transforms,
    rotation_vectors,
    seeds,
)

POINTS = normal(7, 3, seed=0)


def points_of(transform, *shape):
    return normal(*transform.shape, *shape, 3, seed=1)


def assert_same(actual, expected, **tolerance):
    torch.testing.assert_close(actual.matrix(), expected.matrix(), **tolerance)


@given(transforms=batched(rigid_transforms, 2))
def test_products_and_inverses_are_rigid_again(transforms):
    first, second = transforms
    for transform in (first @ second, first.inverse()):
        square = transform.rotation @ transform.rotation.mT
        torch.testing.assert_close(square, torch.eye(3, dtype=square.dtype).expand_as(square))
        determinant = torch.linalg.det(transform.rotation)
        torch.testing.assert_close(determinant, torch.ones_like(determinant))


@given(transforms=batched(rigid_transforms, 1))
def test_a_transform_and_its_inverse_cancel(transforms):
    (transform,) = transforms
    nothing = RigidTransform.identity(*transform.shape, dtype=torch.float64)
    assert_same(transform @ transform.inverse(), nothing, rtol=0, atol=1e-12)
    assert_same(transform.inverse() @ transform, nothing, rtol=0, atol=1e-12)


@given(transforms=batched(rigid_transforms, 3))
def test_composition_is_associative(transforms):
    d_from_c, c_from_b, b_from_a = transforms
    assert_same((d_from_c @ c_from_b) @ b_from_a, d_from_c @ (c_from_b @ b_from_a))


@given(transforms=batched(rigid_transforms, 2))
def test_composing_equals_applying_twice(transforms):
    c_from_b, b_from_a = transforms
    points = points_of(b_from_a, 5)
    twice = c_from_b.apply(b_from_a.apply(points))
    torch.testing.assert_close((c_from_b @ b_from_a).apply(points), twice)


@given(transforms=batched(rigid_transforms, 2))
def test_composition_is_the_product_of_matrices(transforms):
    c_from_b, b_from_a = transforms
    torch.testing.assert_close(
        (c_from_b @ b_from_a).matrix(), c_from_b.matrix() @ b_from_a.matrix()
    )


@given(transforms=batched(rigid_transforms, 1))
def test_the_identity_changes_nothing(transforms):
    (transform,) = transforms
    nothing = RigidTransform.identity(*transform.shape, dtype=torch.float64)
    assert torch.equal((transform @ nothing).matrix(), transform.matrix())
    assert torch.equal((nothing @ transform).matrix(), transform.matrix())


@given(transforms=batched(rigid_transforms, 1))
def test_exp_undoes_log(transforms):
    (transform,) = transforms
    assert_same(RigidTransform.exp(transform.log()), transform, rtol=0, atol=1e-11)


@given(vectors=batched(rotation_vectors, 1), seed=seeds)
def test_log_undoes_exp_near_zero_and_near_pi(vectors, seed):
    (vector,) = vectors
    twist = torch.cat([normal(*vector.shape, seed=seed), vector], dim=-1)
    log = RigidTransform.exp(twist).log()
    # At pi both directions of the axis are the same rotation; the matrices must agree there.
    near_pi = (vector.norm(dim=-1) > math.pi - 1e-7).any()
    if near_pi:
        assert_same(RigidTransform.exp(log), RigidTransform.exp(twist), rtol=0, atol=1e-11)
    else:
        torch.testing.assert_close(log, twist, rtol=1e-7, atol=1e-9)


@given(vectors=batched(rotation_vectors, 1))
def test_exp_is_the_matrix_exponential(vectors):
    (vector,) = vectors
    velocity = normal(*vector.shape, seed=2)
    generator = torch.zeros(*vector.shape[:-1], 4, 4, dtype=torch.float64)
    x, y, z = vector.unbind(-1)
    for (row, column), value in {(0, 1): -z, (0, 2): y, (1, 2): -x}.items():
        generator[..., row, column], generator[..., column, row] = value, -value
    generator[..., :3, 3] = velocity
    exp = RigidTransform.exp(torch.cat([velocity, vector], dim=-1))
    torch.testing.assert_close(exp.matrix(), torch.linalg.matrix_exp(generator))


@given(transforms=batched(rigid_transforms, 1))
def test_quaternions_are_unit_scalar_first_and_come_back(transforms):
    (transform,) = transforms
    quaternion = transform.quaternion()
    assert (quaternion[..., 0] >= 0).all()
    torch.testing.assert_close(quaternion.norm(dim=-1), torch.ones_like(quaternion[..., 0]))
    for same in (quaternion, -quaternion, 3 * quaternion):
        back = RigidTransform.from_quaternion(same, transform.translation)
        assert_same(back, transform, rtol=0, atol=1e-12)


def test_a_quarter_turn_about_z_takes_x_to_y():
    half = math.sqrt(0.5)
    turn = RigidTransform.from_quaternion(torch.tensor([half, 0.0, 0.0, half]), torch.zeros(3))
    torch.testing.assert_close(turn.apply(torch.tensor([1.0, 0, 0])), torch.tensor([0.0, 1, 0]))
    vector = RigidTransform.from_rotation_vector(
        torch.tensor([0.0, 0, math.pi / 2]), torch.zeros(3)
    )
    torch.testing.assert_close(vector.rotation, turn.rotation)


@pytest.mark.parametrize("axis", range(3))
def test_a_half_turn_has_a_quaternion_without_scalar_part(axis):
    rotation = -torch.eye(3)
    rotation[axis, axis] = 1
    quaternion = RigidTransform(rotation, torch.zeros(3)).quaternion()
    assert torch.equal(quaternion, torch.eye(4)[axis + 1])


@given(transforms=batched(rigid_transforms, 2), fraction=st.floats(0, 1))
def test_interpolation_reaches_both_ends_at_constant_speed(transforms, fraction):
    here, there = transforms
    step = (here.inverse() @ there).log()
    if (step[..., 3:].norm(dim=-1) > 3.1).any():  # close to pi the short way round is ambiguous
        return
    assert_same(here.interpolate(there, 0.0), here, rtol=0, atol=1e-10)
    assert_same(here.interpolate(there, 1.0), there, rtol=0, atol=1e-10)
    travelled = (here.inverse() @ here.interpolate(there, fraction)).log()
    torch.testing.assert_close(travelled, fraction * step, rtol=1e-7, atol=1e-8)


@given(transforms=batched(rigid_transforms, 4), fraction=st.floats(0, 1))
def test_interpolation_does_not_depend_on_the_frames(transforms, fraction):
    here, there, left, right = transforms
    if ((here.inverse() @ there).rotation_vector().norm(dim=-1) > 3.1).any():
        return
    inside = left @ here.interpolate(there, fraction) @ right
    outside = (left @ here @ right).interpolate(left @ there @ right, fraction)
    assert_same(inside, outside, rtol=0, atol=1e-8)


def test_each_item_of_a_batch_may_have_its_own_fraction():
    there = RigidTransform.exp(torch.tensor([2.0, 0, 0, 0, 0, 0])).matrix().expand(3, 4, 4)
    path = RigidTransform.identity(3).interpolate(
        RigidTransform.from_matrix(there), torch.tensor([0.0, 0.5, 2.0])
    )
    assert path.translation[:, 0].tolist() == [0, 1, 4]


@given(batch=batches)
def test_a_matrix_keeps_its_numbers(batch):
    matrix = normal(*batch, 4, 4, seed=3)
    matrix[..., 3, :] = torch.tensor([0.0, 0, 0, 1])
    assert torch.equal(RigidTransform.from_matrix(matrix).matrix(), matrix)


@pytest.mark.parametrize("batch", BATCHES)
def test_points_may_have_axes_behind_the_batch(batch):
    transform = RigidTransform.exp(normal(*batch, 6, seed=4))
    points = points_of(transform, 2, 5)
    whole = transform.apply(points)
    for index in torch.cartesian_prod(*map(torch.arange, (2, 5))).tolist():
        torch.testing.assert_close(whole[..., *index, :], transform.apply(points[..., *index, :]))
    torch.testing.assert_close(transform.rotate(points), whole - transform.apply(0 * points))


def test_batches_of_one_broadcast_on_either_side():
    one, many = RigidTransform.exp(normal(1, 6, seed=5)), RigidTransform.exp(normal(3, 6, seed=5))
    assert one.apply(normal(3, 7, 3, seed=6)).shape == (3, 7, 3)
    assert many.apply(normal(1, 7, 3, seed=6)).shape == (3, 7, 3)
    assert (one @ many).shape == (3,)


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 7, 3)])
def test_points_of_another_batch_are_refused(shape):
    many = RigidTransform.identity(5)
    with pytest.raises(ValueError, match=r"points must lead with the batch \(5,\), got"):
        many.apply(torch.zeros(shape))


def test_indexing_takes_from_the_batch():
    transforms = RigidTransform.exp(normal(4, 2, 6, seed=7))
    assert transforms[1].shape == (2,)
    assert transforms[..., 0].shape == (4,)
    assert transforms[1:3, 1].shape == (2,)
    assert transforms[None].shape == (1, 4, 2)
    assert torch.equal(transforms[torch.tensor([2, 0])].matrix(), transforms.matrix()[[2, 0]])
    with pytest.raises(IndexError):
        transforms[0, 0, 0]


def test_no_transforms_are_fine():
    none = RigidTransform.identity(0)
    assert (none @ none.inverse()).log().shape == (0, 6)
    assert none.apply(torch.zeros(0, 7, 3)).shape == (0, 7, 3)


def test_moving_keeps_the_motion():
    transform = RigidTransform.exp(normal(3, 6, seed=8))
    single = transform.to(dtype=torch.float32)
    assert (single.dtype, single.device, single.shape) == (torch.float32, transform.device, (3,))
    assert torch.equal(single.matrix(), transform.matrix().float())
    assert RigidTransform.identity(2, dtype=torch.float64).dtype == torch.float64


def test_gradients_are_exact_and_finite_at_the_identity_and_at_a_half_turn():
    for twist in (torch.zeros(6), torch.tensor([1.0, 2, 3, math.pi, 0, 0]), normal(6, seed=9)):
        start = twist.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda t: RigidTransform.exp(t).matrix(), start)
        assert torch.autograd.gradgradcheck(lambda t: RigidTransform.exp(t).matrix(), start)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 0.3, 1.0, 2.9])
def test_the_gradient_of_log_is_exact(scale):
    axis = torch.nn.functional.normalize(normal(3, seed=10), dim=0)
    start = torch.cat([normal(3, seed=11), scale * axis]).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: RigidTransform.exp(t).log(), start)


def test_gradients_reach_points_and_both_ends_of_an_interpolation():
    here, there = (normal(6, seed=s).requires_grad_() for s in (12, 13))
    points = POINTS.clone().requires_grad_()

    def moved(a, b, p):
        return RigidTransform.exp(a).interpolate(RigidTransform.exp(b), 0.3).inverse().apply(p)

    assert torch.autograd.gradcheck(moved, (here, there, points))


def test_interpolation_between_equals_has_a_finite_gradient():
    here = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    path = RigidTransform.exp(here).interpolate(RigidTransform.exp(here), 0.5)
    (gradient,) = torch.autograd.grad(path.matrix().sum(), here)
    assert gradient.isfinite().all()


def test_autocast_does_not_lower_the_precision():
    a, b = (RigidTransform.exp(normal(6, seed=s)).to(dtype=torch.float32) for s in (14, 15))
    expected = (a @ b).apply(POINTS.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal((a @ b).apply(POINTS.float()), expected)


def test_parts_of_different_dtypes_are_refused():
    with pytest.raises(
        ValueError, match=r"must share dtype and device, got .*float32.* and .*float64"
    ):
        RigidTransform(torch.eye(3), torch.zeros(3, dtype=torch.float64))
