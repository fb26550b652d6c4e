import math

import pytest
import torch
from torch.autograd import gradcheck

from geomim.kernels import nvrtc
from geomim.kernels.selection import use_kernels
from geomim.kernels.splat import cuda
from geomim.kernels.splat.op import project_pinhole, splat
from geomim.transforms import RigidTransform
from tests.geomim.strategies import normal

SIZE = (12, 17)


def rig(cameras=3, count=200, shared=True, dtype=torch.float64):
    """Points all around cameras that look this way and that."""
    points = normal(1 if shared else cameras, count, 3, seed=1) * 4
    matrix = RigidTransform.exp(normal(cameras, 6, seed=2)).matrix()[:, :3].contiguous()
    focal = torch.tensor([9.0, -8.0]).double() + normal(cameras, 2, seed=3) * 0.1
    centre = torch.tensor([8.0, 6.5]).double() + normal(cameras, 2, seed=4)
    return tuple(part.to(dtype) for part in (points, matrix, focal, centre))


def in_images(images=2, count=300, dtype=torch.float64):
    """Points on and around images; depths come in four sizes, so that ties matter."""
    generator = torch.Generator().manual_seed(5)
    share = torch.rand(images, count, 2, generator=generator).double() * 1.3 - 0.15
    pixels = share * torch.tensor([SIZE[1], SIZE[0]])
    pixels[:, :4] = torch.tensor([[0.0, 0], [17, 12], [17, 0.5], [3, 12]]).double()
    depth = torch.randint(1, 5, (images, count), generator=generator).to(dtype)
    valid = torch.rand(images, count, generator=generator) < 0.9
    return pixels.to(dtype), depth, valid


def by_hand(pixels, depth, valid, radius):
    """Every pixel asks every point."""
    best = {}
    for n in range(len(depth)):
        u, v = pixels[n].tolist()
        for i in range(SIZE[0]):
            for j in range(SIZE[1]):
                right = u < j + 1 or (u == j + 1 == SIZE[1])
                below = v < i + 1 or (v == i + 1 == SIZE[0])
                holds = j <= u and right and i <= v and below
                near = radius > 0 and math.hypot(j + 0.5 - u, i + 0.5 - v) <= radius
                key = (depth[n].item(), n)
                if valid[n] and (holds or near) and key < best.get((i, j), (math.inf, 0)):
                    best[i, j] = key
    index = torch.full(SIZE, -1, dtype=torch.int32)
    found = torch.zeros(SIZE, dtype=depth.dtype)
    for place, (near, n) in best.items():
        index[place], found[place] = n, near
    return found, index


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("radius", [0.0, 0.4, 1.0, 1.7])
def test_the_nearest_point_wins_and_of_equals_the_first(kernels, radius):
    pixels, depth, valid = in_images(1, 80)
    with use_kernels(kernels):
        found, index = splat(pixels, depth, valid, size=SIZE, radius=radius)
    expected = by_hand(pixels[0], depth[0], valid[0], radius)
    assert torch.equal(index[0], expected[1])
    assert torch.equal(found[0], expected[0])
    assert (index == -1).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [0.0, 1.5, 2.3])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_equals_the_reference_and_so_does_its_gradient(dtype, radius, threads):
    before, results = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    for kernels in ("compiled", "reference"):
        pixels, depth, valid = in_images(3, dtype=dtype)
        depth.requires_grad_()
        with use_kernels(kernels):
            found, index = splat(pixels, depth, valid, size=SIZE, radius=radius)
        weight = torch.arange(found.numel()).reshape(found.shape)
        results.append((found, index, torch.autograd.grad((found * weight).sum(), depth)[0]))
    torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_projections_equal_the_reference_and_so_do_their_gradients(shared, dtype, threads):
    before, results = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    for kernels in ("compiled", "reference"):
        leaves = [part.requires_grad_() for part in rig(shared=shared, dtype=dtype)]
        with use_kernels(kernels):
            pixels, depth, valid = project_pinhole(*leaves, size=SIZE, near=0.5, margin=1.5)
        loss = (pixels / 10).sin().sum() + depth.square().sum()
        results.append((pixels, depth, valid, *torch.autograd.grad(loss, leaves)))
    torch.set_num_threads(before)
    assert 20 < results[0][2].sum() < 400
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_are_right(shared):
    leaves = [part.requires_grad_() for part in rig(2, 15, shared)]

    def projected(*parts):
        return project_pinhole(*parts, size=SIZE, near=0.5, margin=3.0)[:2]

    assert projected(*leaves)[1].count_nonzero() > 3
    assert gradcheck(projected, leaves)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e308])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_point_that_is_nowhere_is_zero_without_gradient(kernels, bad, axis):
    _, *tables = rig(1)
    tables[0] = torch.eye(3, 4).double()[None]
    points = torch.tensor([[[0.1, 0.1, 2.0]] * 2]).double()
    points[0, 0, axis] = bad
    points.requires_grad_()
    tables[0].requires_grad_()
    with use_kernels(kernels):
        pixels, depth, valid = project_pinhole(points, *tables, size=SIZE, near=0.0)
    by_points, by_matrix = torch.autograd.grad(pixels.sum() + depth.sum(), (points, tables[0]))
    # So far away everything is at the centre of the image, and nothing moves it.
    somewhere = bad == 1e308 and axis == 2
    assert valid.tolist() == [[somewhere, True]]
    assert by_points.isfinite().all()
    assert by_matrix.isfinite().all()
    if not somewhere:
        assert not pixels[0, 0].any()
        assert not by_points[0, 0].any()


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_points_not_beyond_near_are_not_seen(kernels):
    points = torch.tensor([[[0.0, 0, 0], [0, 0, -1], [0, 0, 1], [0, 0, 1.25]]])
    tables = (torch.eye(3, 4)[None], torch.ones(1, 2), torch.full((1, 2), 6.0))
    with use_kernels(kernels):
        assert project_pinhole(points, *tables, size=SIZE, near=1.0)[2].tolist() == [
            [False, False, False, True]
        ]


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize(("cameras", "count"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_yields_nothing(kernels, cameras, count):
    parts = rig(cameras, count)
    parts[0].requires_grad_()
    with use_kernels(kernels):
        pixels, depth, valid = project_pinhole(*parts, size=SIZE, near=0.0)
        found, index = splat(pixels, depth, valid, size=SIZE)
    assert pixels.shape == (cameras, count, 2)
    assert found.shape == index.shape == (cameras, *SIZE)
    assert (index == -1).all()
    assert not torch.autograd.grad(found.sum() + pixels.sum(), parts[0])[0].any()


def test_views_and_expansions_are_as_good_as_copies():
    points, matrix, focal, centre = rig(2)
    views = (points.expand(2, -1, -1), matrix.mT.contiguous().mT, focal[:1].expand(2, 2), centre)
    seen = project_pinhole(*views, size=SIZE, near=0.5)
    plain = project_pinhole(*[view.clone() for view in views], size=SIZE, near=0.5)
    assert all(torch.equal(a, b) for a, b in zip(seen, plain, strict=True))
    swapped = seen[0].flip(-1).contiguous().flip(-1)
    assert torch.equal(splat(swapped, *seen[1:], size=SIZE)[1], splat(*seen, size=SIZE)[1])


# torch's own check reads the gradients of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("shared", [True, False])
def test_the_operators_keep_torchs_rules(shared):
    leaves = [part.requires_grad_() for part in rig(2, 9, shared)]
    torch.library.opcheck(torch.ops.geomim.project_pinhole, (*leaves, *SIZE, 0.1, 0.0))
    pixels, depth, valid = in_images(2, 9)
    torch.library.opcheck(
        torch.ops.geomim.splat, (pixels, depth.requires_grad_(), valid, *SIZE, 1.2)
    )


def test_what_does_not_fit_is_refused():
    parts, (pixels, depth, valid) = rig(), in_images()
    many, none = (torch.zeros(1, 1, dtype=d).expand(1, 2**31) for d in (torch.float, torch.bool))
    with pytest.raises(TypeError, match=r"points must be float32 or float64, got torch.float16"):
        project_pinhole(parts[0].half(), *parts[1:], size=SIZE, near=0.0)
    with pytest.raises(TypeError, match=r"cameras must be torch.float32 on cpu like the points"):
        project_pinhole(parts[0].float(), *parts[1:], size=SIZE, near=0.0)
    with pytest.raises(
        ValueError, match=r"must be of as many cameras, got .*\(2, 3, 4\), \(3, 2\)"
    ):
        project_pinhole(parts[0], parts[1][:2], *parts[2:], size=SIZE, near=0.0)
    with pytest.raises(TypeError, match=r"pixels must be torch.float64 on cpu like the depth, got"):
        splat(pixels.float(), depth, valid, size=SIZE)
    with pytest.raises(ValueError, match=r"pixels, depth and valid must be \(image, point, 2\)"):
        splat(pixels, depth[:1], valid, size=SIZE)
    with pytest.raises(ValueError, match=r"radius must not be negative, got -1.0"):
        splat(pixels, depth, valid, size=SIZE, radius=-1.0)
    with pytest.raises(ValueError, match=r"an image must have less than 2\*\*31 points, got 2147"):
        splat(many[..., None].expand(1, 2**31, 2), many, none, size=SIZE)


@pytest.mark.parametrize("kernel", ["project_pinhole", "project_pinhole_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instance_that_may_be_launched_is_listed(kernel, dtype):
    listed = nvrtc.entry_points(nvrtc.load_source("splat"))
    assert cuda.instance(kernel, dtype) in listed
    assert {"splat_keys", "read_keys", "splat_depths", "splat_indices", "read_depths"} < {*listed}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
def test_the_cuda_kernels_equal_the_cpus(dtype, shared):
    results = {}
    for device in ("cpu", "cuda"):
        leaves = [part.to(device).requires_grad_() for part in rig(shared=shared, dtype=dtype)]
        projected = project_pinhole(*leaves, size=SIZE, near=0.5, margin=1.5)
        found, index = splat(*projected, size=SIZE, radius=1.5)
        loss = (projected[0] / 10).sin().sum() + found.square().sum()
        gradients = torch.autograd.grad(loss, leaves)
        results[device] = [t.cpu() for t in (*projected, found, index, *gradients)]
    loose = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(results["cuda"], results["cpu"], rtol=loose, atol=loose)
