"""torch.compile does not see through run-time shape checks, hence this folder."""

import pytest
import torch

from geomim import PinholeCamera, RigidTransform, normals_from_depth, unproject_depth
from geomim.depth import unproject_distance

CAMERA = PinholeCamera(torch.tensor([9.0, 9.0]), torch.tensor([5.0, 4.0]), (8, 10))
POSE = RigidTransform.exp(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))


def to_world(depth):
    return unproject_depth(depth, CAMERA, world_from_cam=POSE).points


def from_distance(depth):
    return unproject_distance(depth, CAMERA).points


def to_normals(depth):
    return normals_from_depth(depth, CAMERA).normals


@pytest.mark.parametrize("function", [to_world, from_distance, to_normals])
def test_kernels_of_depth_compile_whole_forwards_and_backwards(function):
    depth, grad = torch.rand(3, 8, 10) + 1, torch.randn(3, 8, 10, 3)
    results = []
    for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        learnt = depth.clone().requires_grad_()
        values = run(learnt)
        values.backward(grad)
        results.append((values.detach(), learnt.grad))
    torch.testing.assert_close(*results)


def test_a_learnt_pose_compiles_whole():
    def move(depth, twist):
        pose = RigidTransform.exp(twist)
        return unproject_depth(depth, CAMERA, world_from_cam=pose).points

    depth, twist = torch.rand(8, 10) + 1, torch.rand(6, requires_grad=True)
    compiled = torch.compile(move, backend="aot_eager", fullgraph=True)
    gradients = [
        torch.autograd.grad(run(depth, twist).square().sum(), twist) for run in (move, compiled)
    ]
    torch.testing.assert_close(*gradients)
