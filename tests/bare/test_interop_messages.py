"""Messages for mistakes that the shape checks of the other tests would catch first."""

import pytest
import torch

from geomim.interop.colmap import camera_from_colmap


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"model must be one of SIMPLE_PINHOLE, .*, got FOV"):
        camera_from_colmap("FOV", torch.zeros(5), size=(4, 6))
