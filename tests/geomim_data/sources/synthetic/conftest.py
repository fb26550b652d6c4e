import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim_data.sources.synthetic.rooms import room


@pytest.fixture(scope="session")
def furnished():
    return room(3)


@pytest.fixture(scope="session")
def camera():
    focal = torch.tensor([72.0, 72.0], dtype=torch.float64)
    return PinholeCamera(focal, torch.tensor([40.0, 30.0], dtype=torch.float64), (60, 80))
