import numpy as np
import pytest

from geomim_data.sources.synthetic.rendering import render_depth
from geomim_data.sources.synthetic.solids import rotation_about_z
from geomim_data.sources.synthetic.walk import FRAME_S, walk


@pytest.fixture(scope="module")
def walked(furnished):
    return walk(furnished, frames=60, seed=1)


def test_a_walk_keeps_clear_of_walls_and_furniture(furnished, walked):
    place = walked.translation.numpy()
    width, depth, _ = furnished.size
    assert place[:, :2].min() > 0.35
    assert (place[:, 0] < width - 0.35).all()
    assert (place[:, 1] < depth - 0.35).all()
    for thing in (part for root in furnished.things for part in root.all()):
        if thing.thing.blocks:
            local = (place[:, :2] - (thing.x, thing.y)) @ rotation_about_z(thing.yaw)[:2, :2]
            beyond = np.abs(local) - (thing.thing.half_width, thing.thing.half_depth)
            assert np.hypot(*np.maximum(beyond, 0).T).min() > 0.3


def test_a_walk_is_smooth(walked):
    steps = np.linalg.norm(np.diff(walked.translation.numpy(), axis=0), axis=1)
    assert steps.max() < 0.8 * FRAME_S
    assert steps.mean() > 0.3 * FRAME_S
    turned = walked[:-1].inverse() @ walked[1:]
    assert turned.rotation_vector().norm(dim=-1).max() < np.radians(35)


def test_the_camera_is_held_upright_at_eye_level(walked):
    assert np.abs(walked.translation.numpy()[:, 2] - 1.5).max() < 0.1
    down, ahead = walked.rotation.numpy()[:, :, 1], walked.rotation.numpy()[:, :, 2]
    assert down[:, 2].max() < -0.7
    assert np.abs(walked.rotation.numpy()[:, 2, 0]).max() < np.sin(np.radians(6))
    assert ahead[:, 2].min() > -0.7


def test_poses_are_rotations(walked):
    product = walked.rotation @ walked.rotation.mT
    np.testing.assert_allclose(
        product.numpy(), np.broadcast_to(np.eye(3), product.shape), atol=1e-12
    )
    np.testing.assert_allclose(walked.rotation.det().numpy(), 1.0)


def test_what_is_seen_is_at_the_distances_of_a_room(furnished, camera, walked):
    depths = [render_depth(furnished, camera, walked[index]).depth_m for index in range(0, 60, 10)]
    assert 1.5 < np.median(depths) < 3.6
    assert np.mean(np.array(depths) < 0.5) < 0.01
    assert np.max(depths) < 9


def test_a_walk_repeats(furnished, walked):
    again = walk(furnished, frames=60, seed=1)
    np.testing.assert_array_equal(again.matrix().numpy(), walked.matrix().numpy())
    other = walk(furnished, frames=60, seed=2)
    assert np.abs(other.matrix().numpy() - walked.matrix().numpy()).max() > 0.1


def test_one_frame_is_a_walk(furnished):
    assert walk(furnished, frames=1, seed=0).shape == (1,)


def test_no_frames_are_refused(furnished):
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        walk(furnished, frames=0, seed=0)
