import numpy as np
import pytest
from PIL import Image

from geomim_data.convert import convert
from geomim_data.view import colour_depth, view
from tests.geomim_data.recordings import FakeSource


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("view") / "store"
    convert(FakeSource(), out)
    return out


def test_colour_and_depth_lie_side_by_side(store, tmp_path):
    assert view(store, tmp_path / "x.png", frame=2) == "scene0000_00"
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (64, 24)


def test_a_scene_or_frame_that_is_not_there_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match="scene must be one of scene0000_00, scene0001_00, got x"):
        view(store, tmp_path / "x.png", scene="x")
    with pytest.raises(ValueError, match="frame must be 0 to 2, got 3"):
        view(store, tmp_path / "x.png", frame=3)


def test_a_scene_with_lidar_is_drawn_as_a_rig(tmp_path):
    convert(FakeSource(driving=True), tmp_path / "store")
    view(tmp_path / "store", tmp_path / "all.png")
    view(tmp_path / "store", tmp_path / "top.png", sensors=["top"])
    with Image.open(tmp_path / "all.png") as every, Image.open(tmp_path / "top.png") as top:
        assert top.size[0] == 720
        assert every.size[0] > every.size[1] > 360


def test_depth_is_black_where_there_is_none_and_warm_where_it_is_near():
    near, far, none = colour_depth(np.array([[1200, 3900, 0]] * 9, dtype=np.uint16))[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert none.tolist() == [0, 0, 0]
    assert not colour_depth(np.zeros((2, 2), dtype=np.uint16)).any()
