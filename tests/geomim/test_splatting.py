import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck

from geomim.cameras import (
    BrownConradyCamera,
    EquirectangularCamera,
    KannalaBrandtCamera,
    MixedCamera,
    PinholeCamera,
)
from geomim.depth import unproject_depth
from geomim.kernels.selection import use_kernels
from geomim.splatting import project_lidar, splat_depth
from geomim.transforms import RigidTransform
from tests.geomim.nuscenes_tables import Tables
from tests.geomim.scenes import look
from tests.geomim.strategies import BATCHES, normal

SIZE = (12, 17)
FOCAL, CENTRE = torch.tensor([14.0, 13.0]).double(), torch.tensor([8.0, 6.5]).double()
PINHOLE = PinholeCamera(FOCAL, CENTRE, SIZE)
LENSES = [
    BrownConradyCamera(FOCAL, CENTRE, SIZE, torch.tensor([0.1, 0.01, 0.001, 0.002]).double()),
    KannalaBrandtCamera(FOCAL, CENTRE, SIZE, torch.tensor([0.05, 0.01, 0.0, 0.0]).double()),
]


def around(*batch, count=200):
    return normal(*batch, count, 3, seed=1) * 4


def poses(*batch):
    return RigidTransform.exp(normal(*batch, 6, seed=2) * 0.7)


def cameras(batch, camera=PINHOLE):
    return PinholeCamera(
        camera.focal + normal(*batch, 2, seed=3), camera.principal_point.expand(*batch, 2), SIZE
    )


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shared", [False, True])
def test_lidar_appears_where_the_camera_projects_it(kernels, batch, shared):
    camera, pose = cameras(batch), poses(*batch)
    points = around() if shared else around(*batch)
    with use_kernels(kernels):
        found = project_lidar(points, camera, cam_from_lidar=pose, near=0.4)
    pixels, depth, ahead = camera.project(pose.apply(points.expand(*batch, 200, 3)))
    valid = ahead & camera.contains(pixels) & (depth > 0.4)
    assert torch.equal(found.valid, valid)
    assert valid.any()
    assert not valid.all()
    torch.testing.assert_close(found.pixels, torch.where(valid[..., None], pixels, 0.0))
    torch.testing.assert_close(found.depth, torch.where(valid, depth, 0.0))


def test_clouds_cameras_and_poses_broadcast():
    camera, pose, points = cameras((3,)), poses(2, 1), around(2, 3)
    found = project_lidar(points, camera, cam_from_lidar=pose)
    assert found.valid.shape == (2, 3, 200)
    for i in range(2):
        for j in range(3):
            one = PinholeCamera(camera.focal[j], camera.principal_point[j], SIZE)
            alone = project_lidar(points[i, j], one, cam_from_lidar=pose[i, 0])
            for part, whole in zip(alone, found, strict=True):
                torch.testing.assert_close(part, whole[i, j])


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_lenses_side_by_side_see_what_each_sees_alone(radius):
    mixed = MixedCamera.stack([*LENSES, PINHOLE])
    points = around()
    points[:, 2].abs_()
    identity = RigidTransform.identity(3, dtype=torch.float64)
    together = splat_depth(points, mixed, cam_from_points=identity, radius=radius)
    for row, camera in enumerate([*LENSES, PINHOLE]):
        alone = splat_depth(points, camera, radius=radius)
        assert alone.valid.any()
        assert torch.equal(together.point[row], alone.point)
        torch.testing.assert_close(together.depth[row], alone.depth)


def test_single_precision_points_stay_single_whatever_the_camera():
    points = around().float()
    for camera in (*LENSES, PINHOLE):
        found = splat_depth(points, camera)
        assert found.depth.dtype == torch.float32
        assert found.valid.any()


def test_the_outer_edge_belongs_to_the_image():
    camera = PinholeCamera(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0]), SIZE)
    just_off = math.nextafter(17.0, 18.0) * (1 + 2**-23)
    uv = torch.tensor([[0.0, 0.0], [17.0, 12.0], [just_off, 5.0], [-1e-6, 5.0], [5.0, 12.001]])
    points = torch.cat([uv, torch.ones(5, 1)], dim=-1)
    found = project_lidar(points, camera, cam_from_lidar=RigidTransform.identity())
    assert found.valid.tolist() == [True, True, False, False, False]
    assert splat_depth(points[1:2], camera).point[-1, -1] == 0


def test_the_nearest_point_is_seen_and_of_equals_the_first():
    ray = torch.tensor([0.1, 0.1, 1.0]).double()
    other = torch.tensor([-0.3, 0.1, 1.0]).double()
    points = torch.stack([ray * 5, other * 2, ray * 3, ray * 3, other * 2.5])
    depth, point, valid = splat_depth(points, PINHOLE)
    assert valid.sum() == 2
    assert depth[valid].tolist() == [2, 3]
    assert point[valid].tolist() == [1, 2]
    assert not depth[~valid].any()
    assert (point[~valid] == -1).all()


def test_a_radius_reaches_over_the_edge_of_the_image():
    # One pixel left of the image, seen by the pixels whose centres are within two.
    points = torch.tensor([[-9 / 14, 0.0, 1.0]]).double()
    assert not splat_depth(points, PINHOLE).valid.any()
    found = splat_depth(points, PINHOLE, radius=2.0)
    rows, columns = found.valid.nonzero().unbind(dim=1)
    distance = torch.hypot(columns + 0.5 + 1, rows + 0.5 - 6.5)
    assert (distance <= 2).all()
    assert len(rows) == 3


@pytest.mark.parametrize("batch", BATCHES)
def test_a_depth_map_survives_its_points(batch):
    view = look([0.0, 0, 0, 0, 0, 0])
    points, valid = unproject_depth(view.depth, view.camera)
    cloud = points[valid].expand(*batch, -1, 3)
    found = splat_depth(cloud, view.camera)
    assert torch.equal(found.valid, valid.expand_as(found.valid))
    torch.testing.assert_close(found.depth, view.depth.expand_as(found.depth))
    place = torch.arange(int(valid.sum()), dtype=torch.int32)
    assert torch.equal(found.point[..., valid], place.expand(*batch, -1))


def test_another_view_sees_the_surface_and_not_what_it_hides():
    here, there = look([0.0, 0, 0, 0, 0, 0]), look([0.3, 0.05, -0.1, 0.02, -0.1, 0.03])
    points, valid = unproject_depth(here.depth, here.camera, world_from_cam=here.world_from_cam)
    found = splat_depth(
        points[valid], there.camera, cam_from_points=there.world_from_cam.inverse(), radius=1.5
    )
    error = (found.depth / there.depth - 1)[found.valid].abs()
    assert found.valid.float().mean() > 0.7
    assert error.median() < 0.01
    assert (error < 0.05).double().mean() > 0.9


def test_depth_has_the_gradient_of_the_point_that_is_seen():
    ray = torch.tensor([0.1, 0.1, 1.0]).double()
    points = torch.stack([ray * 5, ray * 3, ray * -1]).requires_grad_()
    depth = splat_depth(points, PINHOLE, radius=1.0).depth
    (gradient,) = torch.autograd.grad(depth.sum(), points)
    assert gradient.count_nonzero() == 1
    assert gradient[1, 2] == depth.count_nonzero()


@pytest.mark.parametrize("camera", [PINHOLE, *LENSES])
def test_gradients_are_right(camera):
    points, twist = around(count=12) * 0.3 + torch.tensor([0, 0, 4.0]), normal(6, seed=5) * 0.1

    def seen(points, twist):
        pose = RigidTransform.exp(twist)
        pixels, depth, _ = project_lidar(points, camera, cam_from_lidar=pose)
        return pixels, depth, splat_depth(points, camera, cam_from_points=pose).depth

    assert gradcheck(seen, (points.requires_grad_(), twist.requires_grad_()))


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("camera", [PINHOLE, *LENSES])
def test_a_point_that_is_nowhere_is_zero_without_gradient(kernels, camera):
    points = torch.tensor([[0.1, 0.1, 2.0]]).double().repeat(5, 1)
    points[:4, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e300])
    twist = torch.zeros(6).double().requires_grad_()
    points.requires_grad_()
    with use_kernels(kernels):
        found = project_lidar(points, camera, cam_from_lidar=RigidTransform.exp(twist))
    by_points, by_twist = torch.autograd.grad(
        found.pixels.sum() + found.depth.sum(), (points, twist)
    )
    assert found.valid.tolist() == [False] * 4 + [True]
    assert not found.pixels[:4].any()
    assert not by_points[:4].any()
    assert by_points[4].all()
    assert by_twist.isfinite().all()


def test_a_panorama_shows_what_is_in_front():
    camera = EquirectangularCamera(
        torch.tensor([3.0, 3.0]).double(), torch.tensor([9.0, 5.0]).double(), (10, 18)
    )
    points = torch.tensor([[0.0, 0, 2], [0.0, 0, -2]]).double()
    found = splat_depth(points, camera)
    assert found.valid.sum() == 1
    assert found.depth.max() == 2


@pytest.mark.parametrize("camera", [PINHOLE, LENSES[0]])
def test_no_points_are_an_empty_map(camera):
    found = splat_depth(torch.zeros(0, 3).double(), camera)
    assert found.depth.shape == SIZE
    assert not found.valid.any()
    assert not found.depth.any()


def test_views_and_expansions_are_as_good_as_copies():
    wide = torch.cat([around(), around()], dim=1)
    views = (wide[:, 2:5], wide[:1, :3].expand(200, 3), wide[::2, :3])
    for view in views:
        here, there = splat_depth(view, PINHOLE), splat_depth(view.clone(), PINHOLE)
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_what_does_not_fit_is_refused():
    pose = RigidTransform.identity(dtype=torch.float64)
    with pytest.raises(ValueError, match=r"near must not be negative, got -0.1"):
        project_lidar(around(), PINHOLE, cam_from_lidar=pose, near=-0.1)
    with pytest.raises(ValueError, match="radius must not be negative, got nan"):
        splat_depth(around(), PINHOLE, radius=math.nan)
    with pytest.raises(TypeError, match=r"points must be .* got torch.float16 \(200, 3\)"):
        splat_depth(around().half(), PINHOLE)
    with pytest.raises(TypeError, match=r"points must be .* got torch.float64 \(3,\)"):
        splat_depth(around()[0], PINHOLE)
    with pytest.raises(ValueError, match=r"must broadcast, got \(2,\), \(3,\) and \(\)"):
        project_lidar(around(2), cameras((3,)), cam_from_lidar=pose)


@pytest.mark.parametrize(
    ("recording", "images"), [("nuscenes_scene0061", 6), ("dgp_scene01_nuscenes", 9)]
)
def test_recorded_lidar_falls_where_it_should(recording, images):
    root = os.environ.get("GEOMIM_REAL_DATA")
    if root is None:
        pytest.skip("GEOMIM_REAL_DATA is not set: no recorded lidar to project")
    tables = Tables(Path(root) / recording)
    expected = json.loads((tables.root / "expected_projection.json").read_text())
    assert len(expected) == images
    for entry in expected:
        image, lidar = tables.data_of(entry["image"])
        camera = tables.camera(image)
        # Over the world, for the vehicle drives on between the two instants.
        cam_from_lidar = tables.world_from_sensor(image).inverse() @ tables.world_from_sensor(lidar)
        matrix = torch.tensor(entry["lidar_to_camera"], dtype=torch.float64)
        torch.testing.assert_close(cam_from_lidar.matrix(), matrix, atol=1e-5, rtol=0)
        for dtype in (torch.float32, torch.float64):
            points = tables.points(lidar)[:, :3].to(dtype)
            found = project_lidar(points, camera, cam_from_lidar=cam_from_lidar, near=1.0)
            inner = torch.tensor(camera.size).flip(0) - 0.5
            inside = ((found.pixels >= 0.5) & (found.pixels <= inner)).all(dim=-1)
            seen = found.depth[found.valid & inside].double()
            assert len(seen) == entry["n_points_z_gt_1m_inside"]
            percentiles = seen.quantile(torch.tensor([0.1, 0.5, 0.9]).double())
            wanted = torch.tensor(entry["depth_p10_p50_p90"], dtype=torch.float64)
            torch.testing.assert_close(percentiles, wanted, atol=1e-3, rtol=0)
