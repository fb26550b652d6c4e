import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim_data.sources.synthetic.nuscenes import synthesize_nuscenes
from geomim_data.sources.synthetic.rooms import room

STREET_OPTIONS = {"seconds": 0.5, "seed": 1, "image_scale": 0.05}


@pytest.fixture(scope="session")
def furnished():
    return room(3)


@pytest.fixture(scope="session")
def camera():
    focal = torch.tensor([72.0, 72.0], dtype=torch.float64)
    return PinholeCamera(focal, torch.tensor([40.0, 30.0], dtype=torch.float64), (60, 80))


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """A dataset of one drive in nuScenes' layout."""
    out = tmp_path_factory.mktemp("streets") / "nuscenes"
    synthesize_nuscenes(out, scenes=1, **STREET_OPTIONS)
    return out
