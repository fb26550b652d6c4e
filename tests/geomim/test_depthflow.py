from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

from geomim.cameras import PinholeCamera
from geomim.depth import unproject_depth
from geomim.depthflow import chain_flow, flow_from_depth
from geomim.transforms import RigidTransform
from geomim.warping import reproject_depth
from tests.geomim.scenes import look
from tests.geomim.strategies import BATCHES, normal

STEPS = [[0.02 * k, -0.01 * k, -2 + 0.03 * k, 0.01 * k, -0.02 * k, 0.005 * k] for k in range(4)]


def leading(source, target):
    return target.world_from_cam.inverse() @ source.world_from_cam


def flow_between(source, target):
    return flow_from_depth(
        source.depth,
        source.camera,
        target_from_source=leading(source, target),
        target_camera=target.camera,
    )


def test_pixels_go_where_warping_fetches_them():
    source, target = look(STEPS[0]), look(STEPS[3])
    flow = flow_between(target, source)
    warped = reproject_depth(
        source.depth,
        target.depth,
        source_camera=source.camera,
        target_camera=target.camera,
        source_from_target=leading(target, source),
    )
    pixels = flow.optical_flow + target.camera.pixel_grid()
    depth = (flow.points + flow.scene_flow)[..., 2]
    assert warped.valid.double().mean() > 0.5
    assert (flow.valid | ~warped.valid).all()
    torch.testing.assert_close(pixels[warped.valid], warped.pixels[warped.valid])
    torch.testing.assert_close(depth[warped.valid], warped.expected[warped.valid])


def test_a_camera_that_rests_sees_no_flow():
    view = look(STEPS[1])
    flow = flow_between(view, view)
    assert flow.valid.all()
    assert flow.scene_flow.abs().max() < 1e-9
    assert flow.optical_flow.abs().max() < 1e-9
    torch.testing.assert_close(flow.points, unproject_depth(view.depth, view.camera).points)


def test_a_wall_ahead_grows_as_one_walks_up_to_it():
    # 10 m away, 2 m nearer: what is 4 pixels beside the axis is 5 beside it.
    camera = PinholeCamera(torch.tensor([20.0, 20.0]), torch.tensor([4.5, 0.5]), (1, 9))
    closer = RigidTransform(torch.eye(3), torch.tensor([0.0, 0.0, -2.0]))
    flow = flow_from_depth(torch.full((1, 9), 10.0), camera, target_from_source=closer)
    torch.testing.assert_close(flow.optical_flow[0, :, 0], torch.arange(-4.0, 5) / 4)
    torch.testing.assert_close(flow.scene_flow, torch.tensor([0.0, 0.0, -2.0]).expand(1, 9, 3))


@pytest.mark.parametrize("batch", BATCHES)
def test_batches_lead(batch):
    view, poses = look(STEPS[0]), RigidTransform.exp(normal(*batch, 6, seed=1) * 0.1)
    depth = view.depth.expand(*batch, *view.depth.shape)
    flow = flow_from_depth(depth, view.camera, target_from_source=poses)
    assert flow.valid.shape == depth.shape
    flat = RigidTransform(poses.rotation.reshape(-1, 3, 3), poses.translation.reshape(-1, 3))
    last = flow_from_depth(view.depth, view.camera, target_from_source=flat[-1])
    whole = flow.optical_flow.reshape(-1, *last.optical_flow.shape)[-1]
    torch.testing.assert_close(whole, last.optical_flow)


def test_chained_flow_is_direct_flow_where_the_world_is_smooth():
    views = [look(step) for step in STEPS]
    steps = [flow_between(a, b) for a, b in pairwise(views)]
    chained, direct = chain_flow(steps), flow_between(views[0], views[-1])
    valid = chained.valid
    assert valid.double().mean() > 0.5
    assert direct.valid[valid].all()
    assert torch.equal(chained.points[valid], direct.points[valid])
    scene = (chained.scene_flow - direct.scene_flow)[valid].norm(dim=-1)
    optical = (chained.optical_flow - direct.optical_flow)[valid].norm(dim=-1)
    assert scene.median() < 1e-3
    assert optical.median() < 2e-2
    assert optical.quantile(0.95) < 0.2


def test_chained_flow_is_exact_where_flow_is_linear():
    # A wall that comes nearer: flow is linear in the pixel.
    camera = PinholeCamera(torch.tensor([20.0, 20.0]), torch.tensor([8.5, 4.5]), (9, 17))
    closer = RigidTransform(torch.eye(3), torch.tensor([0.05, 0.0, -0.25]))
    first, second, whole = (
        flow_from_depth(torch.full(camera.size, depth), camera, target_from_source=pose)
        for depth, pose in ((10.0, closer), (9.75, closer), (10.0, closer @ closer))
    )
    chained = chain_flow([first, second])
    lands = first.optical_flow + camera.pixel_grid()
    # Outside the outermost centres nothing lies on both sides to read between.
    between = ((lands >= 0.5) & (lands <= torch.tensor([16.5, 8.5]))).all(dim=-1)
    valid = chained.valid & between
    assert valid.double().mean() > 0.6
    torch.testing.assert_close(chained.optical_flow[valid], whole.optical_flow[valid])
    torch.testing.assert_close(chained.scene_flow[valid], whole.scene_flow[valid])


def test_a_chain_of_one_is_itself():
    flow = flow_between(look(STEPS[0]), look(STEPS[2]))
    for whole, part in zip(chain_flow([flow]), flow, strict=True):
        assert torch.equal(whole, part)


def test_what_is_hidden_on_the_way_is_followed_no_further():
    views = [look(step) for step in STEPS]
    first, second = flow_between(views[0], views[1]), flow_between(views[1], views[2])
    # A board held 30 cm before the camera hides the left half for one frame.
    board = second.points.clone()
    board[:, :40] *= 0.3 / board[:, :40, 2:]
    blocked = second._replace(points=board)
    free, hidden = chain_flow([first, second]), chain_flow([first, blocked])
    lands = (first.optical_flow + views[1].camera.pixel_grid())[..., 0]
    assert not hidden.valid[lands < 39].any()
    assert torch.equal(hidden.valid[lands > 41], free.valid[lands > 41])
    assert not hidden.scene_flow[~hidden.valid].any()
    assert not hidden.optical_flow[~hidden.valid].any()
    assert not hidden.points[~hidden.valid].any()


def test_invalid_depth_has_no_flow_and_no_gradient():
    view = look(STEPS[0], size=(6, 8))
    depth = view.depth.clone()
    depth[0, :4] = torch.tensor([0.0, -1.0, torch.nan, torch.inf])
    depth.requires_grad_()
    twist = torch.zeros(6).double().requires_grad_()
    flow = flow_from_depth(depth, view.camera, target_from_source=RigidTransform.exp(twist))
    loss = flow.scene_flow.sum() + flow.optical_flow.sum() + flow.points.sum()
    by_depth, by_twist = torch.autograd.grad(loss, (depth, twist))
    assert not flow.valid[0, :4].any()
    assert not by_depth[0, :4].any()
    assert by_depth[1:].all()
    assert by_twist.isfinite().all()
    for part in flow[:3]:
        assert not part[0, :4].any()


def test_points_behind_the_target_have_no_flow():
    view = look(STEPS[0])
    beyond = RigidTransform(torch.eye(3).double(), torch.tensor([0.0, 0.0, -4.0]).double())
    flow = flow_from_depth(view.depth, view.camera, target_from_source=beyond)
    assert torch.equal(flow.valid, view.depth > 4 + 1e-6)
    assert flow.valid.any()
    assert not flow.valid.all()


def test_gradients_are_right():
    views = [look(step, size=(4, 5), focal=6.0) for step in STEPS[:2]]

    def flows(first, second, twist):
        pose = RigidTransform.exp(twist)
        camera = views[0].camera
        steps = [flow_from_depth(d, camera, target_from_source=pose) for d in (first, second)]
        chained = chain_flow(steps, tolerance=9.0)
        return *chained[:3], *steps[0][:3]

    twist = torch.tensor([0.03, -0.02, 0.01, 0.002, 0.01, -0.003]).double()
    leaves = (views[0].depth, views[1].depth, twist)
    assert gradcheck(flows, [leaf.clone().requires_grad_() for leaf in leaves])


def test_what_does_not_fit_is_refused():
    view = look(STEPS[0])
    flow = flow_between(view, view)
    with pytest.raises(ValueError, match="flows must hold at least one, got none"):
        chain_flow([])
    with pytest.raises(ValueError, match=r"tolerance must not be negative, got -0.5"):
        chain_flow([flow], tolerance=-0.5)
    with pytest.raises(ValueError, match=r"depth must have the camera's size \(60, 80\), got"):
        flow_from_depth(
            view.depth[1:],
            view.camera,
            target_from_source=RigidTransform.identity(dtype=torch.float64),
        )
