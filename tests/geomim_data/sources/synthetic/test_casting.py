import numpy as np
import pytest
import torch

from geomim.raycasting import cast_rays
from geomim_data.sources.synthetic.casting import cast_from


def unit(directions):
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0, 1000.0])
@pytest.mark.parametrize("count", [1, 2000])
def test_rays_in_a_cone_find_what_they_find_among_all_solids(furnished, spread, count):
    rng = np.random.default_rng(0)
    directions = unit([1.0, 0.4, -0.3] + spread * rng.uniform(-1, 1, (count, 3)))
    origin = np.array([furnished.size[0] / 2, furnished.size[1] / 2, 1.4])
    primitives = furnished.scene.primitives
    hits = cast_from(origin, directions, primitives)
    expected = cast_rays(torch.from_numpy(origin), torch.from_numpy(directions), primitives)
    np.testing.assert_array_equal(hits.primitive, expected.primitive.numpy())
    np.testing.assert_array_equal(hits.distance, expected.distance.numpy())
    np.testing.assert_array_equal(hits.normal_world, expected.normal_world.numpy())


def test_rays_into_the_open_hit_nothing(furnished):
    origin = np.array([0.0, 0.0, 100.0])
    hits = cast_from(origin, unit(np.array([[0.0, 0.1, 1.0]])), furnished.scene.primitives)
    assert (hits.primitive.item(), hits.distance.item()) == (-1, 0.0)


def test_no_rays_hit_nothing(furnished):
    hits = cast_from(np.ones(3), np.zeros((0, 3)), furnished.scene.primitives)
    assert hits.distance.shape == (0,)


def test_rays_from_many_places_find_what_they_find_among_all_solids(furnished):
    rng = np.random.default_rng(0)
    middle = np.array([furnished.size[0] / 2, furnished.size[1] / 2, 1.4])
    origins = middle + rng.uniform(-0.3, 0.3, (9000, 3))
    directions = unit(rng.normal(size=(9000, 3)))
    primitives = furnished.scene.primitives
    hits = cast_from(origins, directions, primitives)
    expected = cast_rays(torch.from_numpy(origins), torch.from_numpy(directions), primitives)
    np.testing.assert_array_equal(hits.primitive, expected.primitive.numpy())
    np.testing.assert_array_equal(hits.distance, expected.distance.numpy())
