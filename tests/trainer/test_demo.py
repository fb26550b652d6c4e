import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from geomim_data.errors import DataError
from trainer import demo
from trainer.config_errors import ConfigError
from trainer.demo import Part, mask3d_part, mim4d_part, run_demo
from trainer.pretraining import RunResult


def tiny_parts() -> list[Part]:
    mask3d = mask3d_part(
        scenes=2,
        frames=2,
        data={"val": "scenes:1", "batch_size": 2, "workers": 0},
        optim__steps=1,
        speed__device="cpu",
    )
    mim4d = mim4d_part(
        scenes=2,
        seconds=0.5,
        data__val="scenes:1",
        data__val_frames=2,
        data__workers=0,
        model={
            "volume": {"lower_m": [-16, -16, -3], "cell_m": [4, 4, 3], "shape": [8, 8, 2]},
            "render": {"rays": 8, "samples": 6, "importance": 2, "picture_stride": 16},
        },
        optim__steps=1,
        speed__device="cpu",
    )
    return [mask3d, mim4d]


@pytest.mark.slow
def test_the_demo_makes_data_trains_and_tells_what_was_learnt(tmp_path: Path):
    console = Console(file=io.StringIO(), width=120)
    results = run_demo(tmp_path, tiny_parts(), console=console)
    rows = [list(result.report.rows) for result in results if result.report is not None]
    assert rows == [
        ["trained", "untrained", "visible_mean", "nearest_visible"],
        ["trained", "untrained", "mean_depth", "copy_nearest"],
    ]
    printed = console.file.getvalue()
    for run, judge in (("mask3d", "abs_rel"), ("mim4d", "depth_abs_rel_rebuilt")):
        assert f"{run}: {judge} " in printed
        assert f"{run}: pictures {tmp_path / run / 'images'}" in printed
    again = run_demo(tmp_path, tiny_parts(), console=console)
    assert [result.report for result in again] == [result.report for result in results]


def test_a_conversion_that_was_stopped_goes_on(tmp_path: Path):
    part = mask3d_part(scenes=2, frames=2)
    part.synthesize(tmp_path / part.raw)
    store = tmp_path / part.shards
    store.mkdir()
    assert not demo._is_whole(store)
    demo._convert(part.source(tmp_path / part.raw), store, workers=1)
    assert demo._is_whole(store)
    manifest = store / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"failed": {"scene9000_00": "broken"}}))
    assert not demo._is_whole(store)


def test_after_a_stop_nothing_more_is_begun(monkeypatch, tmp_path: Path):
    begun = list[str]()

    def stop(part: Part, out: Path, **_: object) -> RunResult:
        begun.append(part.run)
        return RunResult(out / part.run, "stopped", 3, signal="SIGTERM")

    monkeypatch.setattr(demo, "_run", stop)
    assert demo.main(["--out", str(tmp_path)]) == 130
    assert begun == ["mask3d"]


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_a_failure_is_one_line(kind: type[Exception], monkeypatch, capsys, tmp_path: Path):
    def fail(*_: object, **__: object) -> list[RunResult]:
        raise kind("out: it belongs to another run")

    monkeypatch.setattr(demo, "run_demo", fail)
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "out: it belongs to another run\n"
