import torch

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipLidar
from trainer.methods.mim4d.rays import LidarPixels, RayPlan, choose_rays, lidar_pixels

SIZE = (24, 32)
PLAN = RayPlan(count=20, stride=2, sky=0.25)


class Drive:
    """Two cameras on a vehicle that drives at 15 m/s and turns, a wall of points ahead."""

    def __init__(self, batch=1, frame=2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, frame, 2)
        offset = torch.tensor([0.0, -0.083])[:frame, None] + torch.tensor([0.0, 0.03])
        self.timestamp_us = (1e6 * (5 + offset)).long().expand(shape)
        turn = torch.rand(batch, 1, 1, 1, generator=generator) * torch.tensor([0.0, 0.4, 0.0])
        self.world_from_cam = self.pose(offset.expand(shape), turn, torch.tensor([0.0, 0.5]))
        times = torch.tensor([0.0, -0.083])[:frame].expand(batch, frame)
        self.world_from_rig = self.pose(times, turn[:, :, 0], torch.tensor(0.2))
        self.rig_from_cam = (
            RigidTransform(
                self.world_from_rig.rotation[:, :, None],
                self.world_from_rig.translation[:, :, None],
            ).inverse()
            @ self.world_from_cam
        )
        self.camera = PinholeCamera(
            torch.full((*shape, 2), 25.0), torch.tensor([16.0, 12.0]).expand(*shape, 2), SIZE
        )
        self.images = torch.rand(*shape, 3, *SIZE, generator=generator)
        self.unpadded = torch.tensor([20, 30]).expand(*shape, 2).clone()
        self.valid = torch.ones(shape, dtype=torch.bool)
        points = torch.rand(300, 3, generator=generator) * torch.tensor([16.0, 10.0, 0.0])
        self.points_world = points + torch.tensor([-8.0, -5.0, 9.0])
        sweeps = self.pose(torch.tensor([[0.0, -0.05]]).expand(batch, 2), turn[:, :, 0], 0.1)
        clouds = [
            sweeps[clip, sweep].inverse().apply(self.points_world)
            for clip in range(batch)
            for sweep in range(2)
        ]
        self.lidar = ClipLidar(
            points=torch.cat(clouds),
            offset=300 * torch.arange(2 * batch + 1),
            world_from_lidar=sweeps,
            timestamp_us=torch.tensor([[5_000_000, 4_950_000]]).expand(batch, 2),
            valid=torch.ones(batch, 2, dtype=torch.bool),
        )

    @staticmethod
    def pose(times, turn, aside):
        forward = torch.stack([torch.zeros_like(times) + aside, 0 * times, 15 * times], dim=-1)
        return RigidTransform.from_rotation_vector(turn + 2 * times[..., None] * turn, forward)

    def lidar_pixels(self, **options):
        return lidar_pixels(
            self.lidar,
            self.camera,
            world_from_cam=self.world_from_cam,
            timestamp_us=self.timestamp_us,
            valid=self.valid,
            **{"near_m": 0.0} | options,
        )

    def choose(self, lidar=None, plan=PLAN, seed=0):
        return choose_rays(
            self.images,
            self.camera,
            rig_from_cam=self.rig_from_cam,
            unpadded=self.unpadded,
            valid=self.valid,
            plan=plan,
            generator=torch.Generator().manual_seed(seed),
            lidar=lidar,
        )


def assert_rays_are_of_their_cameras(drive, chosen):
    """Points of rays, over the world, appear at the rays' own pixels at the rays' own times."""
    points_rig = chosen.rays.points_at(torch.full(chosen.rays.shape, 7.0))
    points_world = drive.world_from_rig.apply(points_rig).unflatten(2, (2, -1))
    seen = drive.camera.project(drive.world_from_cam.inverse().apply(points_world))
    valid = chosen.rays.valid.unflatten(2, (2, -1))
    expected = chosen.pixels.unflatten(2, (2, -1))
    assert valid.any()
    torch.testing.assert_close(seen.pixels[valid], expected[valid], atol=2e-3, rtol=0)
    depth = (7 * chosen.slant).unflatten(2, (2, -1))
    torch.testing.assert_close(seen.depth[valid], depth[valid], atol=1e-4, rtol=0)


def test_rays_of_past_frames_point_where_their_cameras_say_with_and_without_lidar():
    drive = Drive()
    for lidar in (None, drive.lidar_pixels()):
        assert_rays_are_of_their_cameras(drive, drive.choose(lidar))


def test_the_distance_is_that_of_the_lidar_point_itself():
    drive = Drive()
    chosen = drive.choose(drive.lidar_pixels())
    assert chosen.measured.sum() > 40
    points_rig = chosen.rays.points_at(chosen.distance)
    points_world = drive.world_from_rig.apply(points_rig)[chosen.measured]
    nearest = (points_world[:, None] - drive.points_world).norm(dim=-1).amin(dim=-1)
    assert nearest.max() < 1e-4


def test_lidar_pixels_come_first_up_to_their_share():
    drive = Drive()
    lidar = drive.lidar_pixels()
    per_view = drive.choose(lidar).measured.unflatten(2, (2, -1)).sum(dim=-1)
    assert (per_view == 20).all()
    half = drive.choose(lidar, RayPlan(count=20, lidar=0.5, stride=2, sky=0.25))
    per_view = half.measured.unflatten(2, (2, -1)).sum(dim=-1)
    assert (per_view >= 10).all()
    assert (per_view < 20).all()


def test_other_rays_are_from_the_grid_below_the_sky_and_above_the_padding():
    chosen = Drive().choose(plan=RayPlan(count=100, stride=2, sky=0.25))
    assert not chosen.measured.any()
    assert (chosen.distance == 0).all()
    u, v = chosen.pixels[chosen.rays.valid].unbind(dim=-1)
    assert v.min() >= 5
    assert v.max() < 20
    assert u.max() < 30
    assert ((v - 0.5) % 2 == 1).all()
    assert ((u - 0.5) % 2 == 1).all()
    # Eight rows of fifteen are more than there are rays; of a larger grid there are fewer.
    assert chosen.rays.valid.all()
    few = Drive().choose(plan=RayPlan(count=100, stride=4, sky=0.25))
    assert few.rays.valid.unflatten(2, (2, -1)).sum(dim=-1).unique().tolist() == [28]


def test_colours_are_those_of_the_pixels():
    drive = Drive()
    for lidar in (None, drive.lidar_pixels()):
        chosen = drive.choose(lidar)
        for index in range(chosen.rays.shape[2]):
            u, v = chosen.pixels[0, 1, index].floor().long().tolist()
            view = int(chosen.view[index])
            assert torch.equal(chosen.rgb[0, 1, index], drive.images[0, 1, view, :, v, u])


def test_a_missing_image_has_no_rays():
    drive = Drive()
    drive.valid = drive.valid.clone()
    drive.valid[0, 1, 0] = False
    drive.images[0, 1, 0] = torch.nan
    chosen = drive.choose(drive.lidar_pixels())
    valid = chosen.rays.valid.unflatten(2, (2, -1))
    assert not valid[0, 1, 0].any()
    assert valid[0, 1, 1].all()
    assert chosen.rgb.isfinite().all()
    assert not chosen.measured[~chosen.rays.valid].any()


def test_two_clips_in_a_batch_have_the_lidar_of_each_alone():
    drive = Drive(batch=2)
    both = drive.lidar_pixels()
    lidar = drive.lidar
    for clip in range(2):
        part = slice(clip, clip + 1)
        drive.lidar = ClipLidar(
            points=lidar.points[600 * clip : 600 * (clip + 1)],
            offset=300 * torch.arange(3),
            world_from_lidar=lidar.world_from_lidar[part],
            timestamp_us=lidar.timestamp_us[part],
            valid=lidar.valid[part],
        )
        alone = lidar_pixels(
            drive.lidar,
            PinholeCamera(drive.camera.focal[part], drive.camera.principal_point[part], SIZE),
            world_from_cam=drive.world_from_cam[part],
            timestamp_us=drive.timestamp_us[part],
            valid=drive.valid[part],
            near_m=0.0,
        )
        for mine, theirs in zip(both, alone, strict=True):
            assert torch.equal(mine[part], theirs)
    chosen = drive.choose(both)
    assert_rays_are_of_their_cameras(drive, chosen)


def test_frames_take_the_sweep_nearest_in_time_that_is_there():
    drive = Drive()
    lidar = drive.lidar

    def only(first, second):
        valid = torch.tensor([[first, second]])
        drive.lidar = ClipLidar(
            lidar.points, lidar.offset, lidar.world_from_lidar, lidar.timestamp_us, valid
        )
        return drive.lidar_pixels()

    both, first, second = only(True, True), only(True, False), only(False, True)
    assert torch.equal(both.pixels[:, 0], first.pixels[:, 0])
    assert torch.equal(both.pixels[:, 1], second.pixels[:, 1])
    assert not torch.equal(both.pixels[:, 1], first.pixels[:, 1])
    assert not only(False, False).valid.any()


def test_points_count_between_two_horizontal_distances():
    drive = Drive()
    assert not drive.lidar_pixels(far_m=1e-3).valid.any()
    assert not drive.lidar_pixels(near_m=50.0).valid.any()


def test_a_generator_repeats_the_choice():
    drive = Drive()
    assert torch.equal(drive.choose(seed=3).pixels, drive.choose(seed=3).pixels)
    assert not torch.equal(drive.choose(seed=3).pixels, drive.choose(seed=4).pixels)


def test_lidar_without_a_point_is_like_no_lidar():
    drive = Drive()
    nothing = LidarPixels(
        torch.zeros(1, 2, 2, *SIZE),
        torch.zeros(1, 2, 2, *SIZE, 2),
        torch.zeros(1, 2, 2, *SIZE, dtype=torch.bool),
    )
    for mine, theirs in zip(drive.choose(nothing)[1:], drive.choose()[1:], strict=True):
        assert torch.equal(mine, theirs)
