"""torch.compile does not see through run-time shape checks, hence this folder."""

import pytest
import torch

from geomim.cameras import MixedCamera
from tests.geomim.cameras.lenses import camera_of, pixels_of, points_within

MODELS = ("brown-conrady 12", "kannala-brandt", "equirectangular", "eucm", "double sphere", "mei")


def see(camera, points, pixels):
    halved = camera.resize(24, 32)
    return halved.project(points).pixels, camera.ray_directions(pixels).directions


def slopes(outputs, inputs):
    return torch.autograd.grad([output.sum() for output in outputs], inputs)


@pytest.mark.parametrize("model", [*MODELS, "mixed"])
def test_cameras_compile_whole(model):
    torch.compiler.reset()
    mixed = MixedCamera.stack([camera_of("mei"), camera_of("brown-conrady 5")])
    camera = mixed if model == "mixed" else camera_of(model, (2,))
    inputs = points_within(40, 2, 5).requires_grad_(), pixels_of(2, 5).requires_grad_()
    expected = see(camera, *inputs)
    found = torch.compile(see, backend="aot_eager", fullgraph=True)(camera, *inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(slopes(found, inputs), slopes(expected, inputs))
