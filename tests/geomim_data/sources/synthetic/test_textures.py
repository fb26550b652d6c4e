from typing import get_args

import numpy as np
import pytest

from geomim_data.sources.synthetic.atlas import make_atlas
from geomim_data.sources.synthetic.textures import SIDE, Family, Material, draw_material


@pytest.mark.parametrize("family", get_args(Family))
def test_a_material_reflects_some_light_and_not_all(family):
    material = draw_material(family, np.random.default_rng(0))
    assert material.picture.shape == (SIDE, SIDE, 3)
    assert material.picture.min() >= 0
    assert material.picture.max() <= 1
    assert material.picture.mean() > 0.005


@pytest.mark.parametrize("family", get_args(Family))
def test_a_material_repeats_with_its_seed(family):
    first, second = (draw_material(family, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.picture, second.picture)


def gradient():
    ramp = np.linspace(0.1, 0.9, SIDE, dtype=np.float32)
    picture = np.stack([np.tile(ramp, (SIDE, 1)), np.tile(ramp[:, None], (1, SIDE))], axis=-1)
    return Material(np.concatenate([picture, picture[..., :1]], axis=-1), 1.0)


def sample(atlas, material, uv, footprint=0.0):
    uv = np.array(uv, np.float32)
    count = len(uv)
    return atlas.sample(np.full(count, material), uv, np.full(count, footprint, dtype=np.float32))


def test_sampling_reads_u_to_the_right_and_v_down():
    atlas = make_atlas([draw_material("paint", np.random.default_rng(0)), gradient()])
    colour = sample(atlas, 1, [(0.25, 0.75)])[0]
    np.testing.assert_allclose(colour[:2], (0.3, 0.7), atol=0.01)


def test_sampling_wraps_round():
    atlas = make_atlas([gradient()])
    places = [(0.3, 0.6), (1.3, 0.6), (-0.7, 3.6)]
    colours = sample(atlas, 0, places)
    np.testing.assert_allclose(colours[1:], colours[[0, 0]], atol=1e-3)


def test_a_wide_footprint_sees_the_mean():
    atlas = make_atlas([gradient()])
    np.testing.assert_allclose(sample(atlas, 0, [(0.1, 0.1)], 4.0)[0], 0.5, atol=0.02)
