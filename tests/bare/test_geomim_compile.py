"""torch.compile does not see through run-time shape checks, hence this folder."""

import torch

from geomim import (
    PinholeCamera,
    PrimitiveKind,
    Primitives,
    RigidTransform,
    cast_rays,
    normals_from_depth,
    warp_image,
)

CAMERA = PinholeCamera(torch.tensor([9.0, 9.0]), torch.tensor([5.0, 4.0]), (8, 10))


def compiled(function):
    return torch.compile(function, backend="aot_eager", fullgraph=True)


def test_warping_compiles_whole():
    def warp(image, depth, twist):
        pose = RigidTransform.exp(twist)
        options = {"source_camera": CAMERA, "target_camera": CAMERA, "source_from_target": pose}
        return warp_image(image, depth, depth, **options).image

    image, depth = torch.rand(3, 8, 10), torch.rand(8, 10) + 1
    twist = torch.tensor([0.05, 0.02, 0.0, 0.01, 0.0, 0.02])
    torch.testing.assert_close(compiled(warp)(image, depth, twist), warp(image, depth, twist))


def test_normals_and_transforms_compile_whole():
    def turn(depth, twist):
        pose = RigidTransform.exp(twist)
        return (pose @ pose.inverse()).log(), pose.rotate(normals_from_depth(depth, CAMERA).normals)

    depth, twist = torch.rand(8, 10) + 1, torch.rand(6)
    torch.testing.assert_close(compiled(turn)(depth, twist), turn(depth, twist))


def test_casting_rays_compiles_whole():
    scene = Primitives(
        torch.tensor([PrimitiveKind.BOX]), RigidTransform.identity(1), torch.ones(1, 3)
    )

    def cast(directions):
        return cast_rays(torch.zeros(3), directions, scene)

    directions = torch.randn(20, 3)
    torch.testing.assert_close(compiled(cast)(directions), cast(directions))
