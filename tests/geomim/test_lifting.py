import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from geomim.cameras import MixedCamera, PinholeCamera
from geomim.grids import VoxelGrid, sample_volume
from geomim.kernels.selection import use_kernels
from geomim.lifting import convolve_pushed, lift_by_pulling, lift_by_pushing
from geomim.transforms import RigidTransform
from tests.geomim.cameras.lenses import camera_of
from tests.geomim.strategies import normal

# Ego axes are x forward, y left, z up; a camera at the ego's origin looks forward.
FORWARD = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
GRID = VoxelGrid((0.0, -4.0, -2.0), (1.0, 1.0, 1.0), (10, 8, 4))
EDGES = torch.linspace(1.0, 9.0, 9, dtype=torch.float64)


def _camera(*batch: int, focal: float = 8.0) -> PinholeCamera:
    """Image of 16 by 16 pixels, 90 degrees wide."""
    parts = (torch.tensor(value, dtype=torch.float64) for value in ([focal] * 2, [8.0, 8.0]))
    return PinholeCamera(*(part.expand(*batch, 2) for part in parts), size=(16, 16))


def _poses(*batch: int, seed: int = 0) -> RigidTransform:
    """Cameras that look forward, nearly, from nearly the origin."""
    near = RigidTransform.exp(normal(*batch, 6, seed=seed) * 0.1)
    return near @ RigidTransform(FORWARD, torch.zeros(3, dtype=torch.float64))


def _distribution(*shape: int) -> Tensor:
    return normal(*shape, seed=3).softmax(dim=-3)


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_a_feature_that_one_camera_sees_lands_in_its_cell(lift):
    # The cell from 5 to 6 m ahead, 0 to 1 m to the right, 1 to 2 m up has its centre at
    # (5.5, -0.5, 1.5), so 5.5 m deep at u = 8 + 8 * 0.5 / 5.5 = 8.7, v = 8 - 8 * 1.5 / 5.5 = 5.8.
    features = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    features[0, :, 5, 8] = torch.tensor([3.0, -1.0])
    distribution = torch.zeros(1, 8, 16, 16, dtype=torch.float64)
    distribution[0, 4] = 1.0  # 5 to 6 m
    pose = RigidTransform(FORWARD, torch.zeros(3, dtype=torch.float64))[None]
    volume, seen = lift(
        features, distribution, EDGES, camera=_camera(1), ego_from_cam=pose, grid=GRID
    )
    strongest = volume[0].flatten().argmax()
    assert torch.unravel_index(strongest, volume[0].shape) == (3, 3, 5)  # z, y, x
    assert seen[3, 3, 5]
    assert volume[0, 3, 3, 5] == -3 * volume[1, 3, 3, 5]
    if lift is lift_by_pushing:
        assert volume[0].count_nonzero() == 1
        assert volume[0, 3, 3, 5] == 3.0


def _ramp(height: int, width: int) -> Tensor:
    """Features that are linear in pixels: bilinear reading is exact."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([u / width, v / height, torch.ones_like(u)]).double()


@pytest.mark.parametrize("size", [(16, 16), (8, 4)])
def test_pulling_reads_the_centres_that_sampling_reads(size):
    camera, pose = _camera(1), _poses(1)
    rising = (torch.arange(8, dtype=torch.float64) + 0.5)[:, None, None].expand(8, *size)
    lifted = lift_by_pulling(
        _ramp(*size)[None], rising[None], EDGES, camera=camera, ego_from_cam=pose, grid=GRID
    )
    centres = GRID.centres(dtype=torch.float64).reshape(1, -1, 3)
    pixels, depth, _ = camera.project(pose.inverse().apply(centres))
    # Away from the rim, where reading stays constant.
    inner = ((pixels - 8).abs() < 6).all(-1) & (depth > 1.5) & (depth < 8.5)
    assert inner.sum() > 50
    values, _ = sample_volume(lifted.volume, centres[0], GRID)
    u, v = pixels.unbind(dim=-1)
    expected = torch.stack([u / 16, v / 16, torch.ones_like(u)], -1) * (depth - 1)[..., None]
    torch.testing.assert_close(values[inner[0]], expected[inner])
    assert lifted.seen.flatten()[inner[0]].all()


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_cameras_of_unequal_calibration_add_up(lift, batch):
    views = 3
    focal = torch.tensor([[6.0, 6.0], [8.0, 9.0], [12.0, 11.0]], dtype=torch.float64)
    whole = PinholeCamera(focal.expand(*batch, 3, 2), _camera(*batch, 3).principal_point, (16, 16))
    poses = _poses(*batch, views)
    features, distribution = (
        normal(*batch, views, 2, 8, 8, seed=1),
        _distribution(*batch, views, 8, 8, 8),
    )
    together = lift(features, distribution, EDGES, camera=whole, ego_from_cam=poses, grid=GRID)
    apart = [
        lift(
            features[..., i : i + 1, :, :, :],
            distribution[..., i : i + 1, :, :, :],
            EDGES,
            camera=PinholeCamera(
                whole.focal[..., i : i + 1, :], whole.principal_point[..., i : i + 1, :], (16, 16)
            ),
            ego_from_cam=poses[..., i : i + 1],
            grid=GRID,
        )
        for i in range(views)
    ]
    torch.testing.assert_close(together.volume, sum(one.volume for one in apart))
    assert torch.equal(together.seen, torch.stack([one.seen for one in apart]).any(dim=0))
    assert together.volume.movedim(-4, -1)[~together.seen].count_nonzero() == 0


@pytest.mark.parametrize("sides", [(3, 3, 3), (1, 3, 5), (1, 1, 1)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_convolving_what_is_pushed_is_convolving_the_volume(batch, sides):
    features, distribution = normal(*batch, 2, 3, 8, 8, seed=1), _distribution(*batch, 2, 8, 8, 8)
    weight = normal(4, 3, *sides, seed=2)
    options = {"camera": _camera(*batch, 2), "ego_from_cam": _poses(*batch, 2), "grid": GRID}
    lifted = lift_by_pushing(features, distribution, EDGES, **options)
    flat = lifted.volume.reshape(-1, *lifted.volume.shape[-4:])
    padding = tuple(side // 2 for side in sides)
    expected = torch.nn.functional.conv3d(flat, weight, padding=padding)
    for kernels in ("compiled", "reference"):
        with use_kernels(kernels):
            found = convolve_pushed(features, distribution, EDGES, weight, **options)
        torch.testing.assert_close(found.volume, expected.reshape(*batch, *expected.shape[1:]))
        assert torch.equal(found.seen, lifted.seen)


def test_gradients_of_convolved_pushing():
    options = {"camera": _camera(1), "ego_from_cam": _poses(1), "grid": GRID}
    inputs = (normal(1, 2, 3, 3, seed=1), _distribution(1, 8, 3, 3), normal(2, 2, 3, 1, 3, seed=2))

    def volume(features, distribution, weight):
        return convolve_pushed(features, distribution, EDGES, weight, **options).volume

    assert gradcheck(volume, [tensor.requires_grad_() for tensor in inputs], fast_mode=True)


def test_convolved_pushing_stands_autocasting():
    options = {"camera": _camera(1), "ego_from_cam": _poses(1), "grid": GRID}
    inputs = (normal(1, 2, 3, 3, seed=1).float(), _distribution(1, 8, 3, 3).float(), EDGES)
    weight = normal(2, 2, 3, 1, 3, seed=2).float()
    exact = convolve_pushed(*inputs, weight, **options).volume
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve_pushed(*inputs, weight, **options).volume
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.02)


def test_kernels_without_a_middle_are_refused():
    options = {"camera": _camera(1), "ego_from_cam": _poses(1), "grid": GRID}
    inputs = (normal(1, 3, 8, 8, seed=1), _distribution(1, 8, 8, 8), EDGES)
    with pytest.raises(ValueError, match=r"weight must have odd sides, got \(3, 2, 3\)"):
        convolve_pushed(*inputs, normal(4, 3, 3, 2, 3, seed=2), **options)


def test_the_mean_counts_only_cameras_that_see_the_cell():
    camera, poses = _camera(2), _poses(2)
    arguments = (torch.ones(2, 1, 16, 16).double(), torch.ones(2, 8, 16, 16).double(), EDGES)
    options = {"camera": camera, "ego_from_cam": poses, "grid": GRID}
    total = lift_by_pulling(*arguments, **options)
    mean = lift_by_pulling(*arguments, **options, reduce="mean")
    assert total.volume.round(decimals=9).unique().tolist() == [0.0, 1.0, 2.0]
    torch.testing.assert_close(mean.volume[0], mean.seen.double())


def test_pushing_is_a_loop_over_pixels_and_bins():
    camera, pose = _camera(2).resize(4, 4), _poses(2)
    features, distribution = normal(2, 3, 4, 4, seed=1), _distribution(2, 8, 4, 4)
    lifted = lift_by_pushing(
        features, distribution, EDGES, camera=camera, ego_from_cam=pose, grid=GRID
    )
    expected = torch.zeros(3, 4, 8, 10, dtype=torch.float64)
    for view, k, row, column in itertools.product(range(2), range(8), range(4), range(4)):
        pixel = torch.tensor([[[column + 0.5, row + 0.5]]] * 2, dtype=torch.float64)
        depth = torch.full((2, 1), k + 1.5, dtype=torch.float64)
        point = pose.apply(camera.unproject(pixel, depth).points)[view, 0]
        if GRID.contains(point):
            x, y, z = GRID.to_index(point).long().tolist()
            expected[:, z, y, x] += (
                features[view, :, row, column] * distribution[view, k, row, column]
            )
    assert expected.count_nonzero() > 100
    torch.testing.assert_close(lifted.volume, expected)


def test_gradients_reach_features_distribution_edges_and_poses():
    grid = VoxelGrid((2.0, -1.0, -1.0), (2.0, 1.0, 2.0), (2, 2, 1))
    inputs = (
        normal(2, 2, 3, 3, seed=1),
        _distribution(2, 3, 3, 3),
        torch.tensor([1.0, 2.2, 4.1, 9.0], dtype=torch.float64),
        _poses(2).translation,
    )
    inputs = tuple(tensor.clone().requires_grad_() for tensor in inputs)

    def pull(features: Tensor, distribution: Tensor, edges: Tensor, translation: Tensor) -> Tensor:
        pose = RigidTransform(_poses(2).rotation, translation)
        return lift_by_pulling(
            features, distribution, edges, camera=_camera(2), ego_from_cam=pose, grid=grid
        ).volume

    def push(features: Tensor, distribution: Tensor) -> Tensor:
        return lift_by_pushing(
            features, distribution, inputs[2], camera=_camera(2), ego_from_cam=_poses(2), grid=grid
        ).volume

    assert gradcheck(pull, inputs)
    assert gradcheck(push, inputs[:2])
    assert pull(*inputs).count_nonzero() > 0


def test_pushing_twice_gives_the_same_bits():
    arguments = (normal(2, 3, 16, 16, seed=1).float(), _distribution(2, 8, 16, 16).float(), EDGES)
    options = {"camera": _camera(2), "ego_from_cam": _poses(2), "grid": GRID}
    first, again = (lift_by_pushing(*arguments, **options).volume for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_a_grid_behind_all_cameras_stays_empty(lift):
    behind = VoxelGrid((-9.0, -4.0, -2.0), (1.0, 1.0, 1.0), (4, 8, 4))
    features = normal(1, 2, 8, 8, seed=1).requires_grad_()
    volume, seen = lift(
        features,
        _distribution(1, 8, 8, 8),
        EDGES,
        camera=_camera(1),
        ego_from_cam=_poses(1),
        grid=behind,
    )
    assert not seen.any()
    assert volume.count_nonzero() == 0
    assert torch.autograd.grad(volume.sum(), features)[0].count_nonzero() == 0


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_without_cameras_the_volume_stays_empty(lift):
    volume, seen = lift(
        normal(3, 0, 2, 8, 8, seed=1),
        _distribution(3, 0, 8, 8, 8),
        EDGES,
        camera=_camera(3, 0),
        ego_from_cam=_poses(3, 0),
        grid=GRID,
    )
    assert volume.shape == (3, 2, 4, 8, 10)
    assert volume.count_nonzero() == 0
    assert not seen.any()


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_no_rigs_yield_no_volumes(lift):
    volume, seen = lift(
        normal(0, 2, 3, 8, 8, seed=1),
        _distribution(0, 2, 8, 8, 8),
        EDGES,
        camera=_camera(0, 2),
        ego_from_cam=_poses(0, 2),
        grid=GRID,
    )
    assert volume.shape == (0, 3, 4, 8, 10)
    assert seen.shape == (0, 4, 8, 10)


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_stay_half(lift, dtype):
    features, distribution = normal(2, 3, 8, 8, seed=1).to(dtype), _distribution(2, 8, 8, 8)
    options = {"camera": _camera(2), "ego_from_cam": _poses(2), "grid": GRID}
    half = lift(features, distribution.to(dtype), EDGES, **options)
    full = lift(features.double(), distribution.to(dtype).double(), EDGES, **options)
    assert half.volume.dtype == dtype
    torch.testing.assert_close(half.volume.double(), full.volume, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_two_rigs_in_a_batch_are_two_batches_of_one(lift):
    """Rigs of another lens at every place, and of other poses in every item."""
    views = 3
    rigs = [
        MixedCamera.stack([camera_of(model, seed=seed) for seed, model in enumerate(models, item)])
        for item, models in enumerate(
            [("mei", "pinhole", "kannala-brandt"), ("brown-conrady 5", "eucm", "equirectangular")]
        )
    ]
    both = MixedCamera(
        (*rigs[0].groups, *rigs[1].groups),
        (*rigs[0].rows, *(row + views for row in rigs[1].rows)),
        torch.Size([2, views]),
    )
    poses, features = _poses(2, views, seed=7), normal(2, views, 2, 12, 16, seed=1)
    distribution = _distribution(2, views, 8, 12, 16)
    whole = lift(features, distribution, EDGES, camera=both, ego_from_cam=poses, grid=GRID)
    assert whole.seen.double().mean() > 0.2
    for i, rig in enumerate(rigs):
        alone = lift(
            features[i], distribution[i], EDGES, camera=rig, ego_from_cam=poses[i], grid=GRID
        )
        torch.testing.assert_close(whole.volume[i], alone.volume)
        assert torch.equal(whole.seen[i], alone.seen)


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_the_reference_kernels_lift_the_same(lift):
    arguments = (normal(2, 3, 16, 16, seed=1), _distribution(2, 8, 16, 16), EDGES)
    options = {"camera": _camera(2), "ego_from_cam": _poses(2), "grid": GRID}
    with use_kernels("reference"):
        expected = lift(*arguments, **options)
    torch.testing.assert_close(lift(*arguments, **options), expected)


@pytest.mark.parametrize("lift", [lift_by_pulling, lift_by_pushing])
def test_what_does_not_belong_together_is_refused(lift):
    features, distribution = normal(2, 3, 4, 4, seed=1), _distribution(2, 8, 4, 4)
    options = {"camera": _camera(2), "ego_from_cam": _poses(2), "grid": GRID}
    with pytest.raises(ValueError, match="depth_edges must be one more than the 8 bins, got 8"):
        lift(features, distribution, EDGES[1:], **options)
    with pytest.raises(ValueError, match=r"must have the batch \(2,\) of the views, got \(3,\)"):
        lift(features, distribution, EDGES, **options | {"camera": _camera(3)})
