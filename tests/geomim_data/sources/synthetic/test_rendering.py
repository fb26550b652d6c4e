from dataclasses import replace

import numpy as np
import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim_data.sources.synthetic import rendering
from geomim_data.sources.synthetic.rendering import render, render_depth
from geomim_data.sources.synthetic.walk import walk

from .surfaces import distances_to_surface


@pytest.fixture(scope="module")
def world_from_cam(furnished):
    return walk(furnished, frames=8, seed=0)[3]


@pytest.fixture(scope="module")
def view(furnished, camera, world_from_cam):
    return render(furnished, camera, world_from_cam)


def test_depth_lies_on_the_surface_of_what_is_seen(furnished, camera, world_from_cam, view):
    points, valid = camera.unproject(camera.pixel_grid(), torch.from_numpy(view.depth_m))
    points_world = world_from_cam.apply(points).numpy().reshape(-1, 3)
    assert valid.all()
    scene, nearest = furnished.scene, np.full(points_world.shape[0], np.inf)
    for solid in range(len(scene.label)):
        which = np.full(len(points_world), solid)
        away = distances_to_surface(points_world, which, scene.primitives)
        nearest = np.where(
            scene.instance[solid] == view.instance.ravel(), np.minimum(nearest, away), nearest
        )
    assert nearest.max() < 1e-9


def test_labels_belong_to_their_instances(furnished, view):
    scene = furnished.scene
    label_of = dict(zip(scene.instance.tolist(), scene.label.tolist(), strict=True))
    expected = np.vectorize(label_of.get)(view.instance)
    np.testing.assert_array_equal(view.label, expected)


def test_depth_alone_equals_depth_with_colour(furnished, camera, world_from_cam, view):
    depth, facing = render_depth(furnished, camera, world_from_cam)
    np.testing.assert_array_equal(depth, view.depth_m)
    assert facing.min() >= 0
    assert facing.max() <= 1 + 1e-12


def test_a_picture_is_lit_and_not_clipped(view):
    assert 50 < view.rgb.mean() < 200
    assert view.rgb.std() > 15
    assert (view.rgb.min(axis=-1) >= 254).mean() < 0.02
    assert (view.rgb.max(axis=-1) <= 4).mean() < 0.02


def test_the_same_view_has_the_same_bytes(furnished, camera, world_from_cam, view):
    again = render(furnished, camera, world_from_cam)
    assert again.rgb.tobytes() == view.rgb.tobytes()


def test_a_large_image_is_shaded_in_parts(furnished, camera, world_from_cam, view, monkeypatch):
    monkeypatch.setattr(rendering, "_CHUNK", 1000)
    again = render(furnished, camera, world_from_cam)
    np.testing.assert_array_equal(again.rgb, view.rgb)


def test_a_camera_in_single_precision_sees_the_same(furnished, camera, world_from_cam, view):
    single = render(furnished, camera.to(dtype=torch.float32), world_from_cam)
    differs = single.instance != view.instance
    assert differs.mean() < 0.01
    np.testing.assert_allclose(single.depth_m[~differs], view.depth_m[~differs], rtol=0.01)


def test_shadows_only_darken(furnished, camera, world_from_cam, monkeypatch):
    # Which edges are smoothed depends on the light.
    monkeypatch.setattr(rendering, "_FLAT", 255)
    scene, lighting = furnished.scene, furnished.scene.lighting
    sources = tuple(replace(source, shadows=False) for source in lighting.sources)
    bare = replace(scene, lighting=replace(lighting, sources=sources))
    shaded, lit = (
        render(seen, camera, world_from_cam).rgb.astype(int).mean(axis=-1)
        for seen in (furnished, replace(furnished, scene=bare))
    )
    gain = lit - shaded
    assert gain.min() >= 0
    assert (gain > 10).mean() > 0.02
    assert (gain == 0).mean() > 0.3


def test_a_batch_of_cameras_is_refused(furnished, camera, world_from_cam):
    batch = PinholeCamera(camera.focal[None], camera.principal_point[None], camera.size)
    with pytest.raises(ValueError, match=r"camera must be a single one, got a batch of \(1,\)"):
        render(furnished, batch, world_from_cam)


def test_edges_are_smoothed_and_flat_parts_left_alone(
    furnished, camera, world_from_cam, view, monkeypatch
):
    monkeypatch.setattr(rendering, "_FLAT", 255)
    raw = render(furnished, camera, world_from_cam).rgb
    changed = (raw != view.rgb).any(axis=-1)
    beside = np.zeros_like(changed)
    for axis in (0, 1):
        differs = np.diff(view.instance.astype(int), axis=axis) != 0
        beside |= np.insert(differs, 0, False, axis) | np.insert(
            differs, differs.shape[axis], False, axis
        )
    assert 0.01 < changed.mean() < 0.4
    assert changed[beside].mean() > 4 * changed[~beside].mean()
