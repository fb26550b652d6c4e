"""Messages for mistakes that the shape checks of the other tests would catch first."""

import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.kernels.selection import use_kernels
from geomim.transforms import RigidTransform


def test_an_unknown_choice_of_kernels_is_refused():
    with pytest.raises(ValueError, match="kernels must be 'compiled' or 'reference', got 'fast'"):
        use_kernels("fast")


def test_parts_of_different_batches_are_refused():
    message = r"rotation must be \(\*batch, 3, 3\) .* got \(3, 3\) and \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        RigidTransform(torch.eye(3), torch.zeros(2, 3))


def test_intrinsics_of_different_batches_are_refused():
    message = r"focal and principal_point must be \(\*batch, 2\) .* got \(\(2,\), .*\(\(4, 2\)"
    with pytest.raises(ValueError, match=message):
        PinholeCamera(torch.ones(2), torch.ones(4, 2), (4, 6))
