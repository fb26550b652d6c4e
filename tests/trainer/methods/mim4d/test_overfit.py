"""Real recordings, each fitted by the packaged configuration for it."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from geomim_data.convert import convert
from geomim_data.sources.nuscenes import NuScenesSource
from trainer import pretrain

THREE_FRAMES = {
    "data.offsets": [0, -1, -2],
    "data.scale": 0.075,
    "model.supervise": "key_and_other",
}


def fitted(folder: str, out: Path, **overrides: object):
    root = os.environ.get("GEOMIM_REAL_DATA")
    if root is None:
        pytest.skip("GEOMIM_REAL_DATA is not set: no real recording to fit")
    source = NuScenesSource(Path(root) / folder, version="v1.0-mini")
    assert not convert(source, out / "shards").failed
    run = pretrain(
        "mim4d-overfit.yaml",
        out=out / "run",
        console=Console(file=io.StringIO()),
        **{"data.path": out / "shards", "speed.device": "cpu", **overrides},
    )
    assert run.report is not None
    return run.report.rows


@pytest.mark.slow
def test_depth_of_a_real_frame_of_six_cameras_is_fitted(tmp_path: Path):
    rows = fitted("nuscenes_scene0061", tmp_path)
    assert rows["trained"]["depth_abs_rel"] < 0.15
    assert rows["untrained"]["depth_abs_rel"] > 0.3


@pytest.mark.slow
def test_depth_of_three_real_frames_is_fitted_from_their_own_volumes_and_from_the_others(
    tmp_path: Path,
):
    rows = fitted("dgp_scene01_nuscenes", tmp_path, **THREE_FRAMES)
    assert rows["trained"]["depth_abs_rel"] < 0.15
    assert rows["trained"]["depth_abs_rel_rebuilt"] < 0.15
