import io
from pathlib import Path

import pytest
from rich.console import Console

from trainer import demo
from trainer.config_errors import ConfigError
from trainer.demo import run_demo
from trainer.pretraining import RunResult

SMALL = {
    "scenes": 2,
    "frames": 2,
    "data": {"val": "scenes:1", "batch_size": 2, "workers": 0},
    "optim.steps": 1,
    "speed.device": "cpu",
}


@pytest.mark.slow
def test_the_demo_makes_data_trains_and_tells_what_was_learnt(tmp_path: Path):
    console = Console(file=io.StringIO(), width=100)
    result = run_demo(tmp_path, console=console, **SMALL)
    assert result.report is not None
    rows = ["trained", "untrained", "visible_mean", "nearest_visible"]
    assert list(result.report.rows) == rows
    printed = console.file.getvalue()
    assert f"pictures are in {tmp_path / 'mask3d' / 'images'}" in printed
    assert "What was learnt in 1 steps, on 2 validation frames:" in printed
    again = run_demo(tmp_path, console=console, **SMALL)
    assert again.report == result.report


def test_a_failure_is_one_line(monkeypatch, capsys, tmp_path: Path):
    def fail(*_: object, **__: object) -> RunResult:
        raise ConfigError("out: it belongs to another run")

    monkeypatch.setattr(demo, "run_demo", fail)
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "out: it belongs to another run\n"
