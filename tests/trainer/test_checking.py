import io
from pathlib import Path

import pytest
from rich.console import Console

from geomim_data.convert import convert
from tests.geomim_data.recordings import FakeSource
from trainer import checking
from trainer.checking import check_run
from trainer.config_errors import ConfigError
from trainer.config_file import load_config

SMALL = {
    "data": {"image_size": (16, 24), "batch_size": 4},
    "model.encoder": {"dim": 16, "heads": 2, "depth": 1},
    "model.decoder": {"dim": 16, "heads": 2, "depth": 1},
    "optim": {"accumulate": 2, "blr": 0.064},
    "speed.device": "cpu",
}


def checked(name: str, *, uses_store: bool = False, **overrides: object) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=100)
    config = load_config(load_config(name, SMALL), overrides)
    code = check_run(config, uses_store=uses_store, console=console)
    return code, console.file.getvalue()


@pytest.mark.parametrize("name", ["mask3d-demo", "mae-demo"])
def test_one_step_on_noise_tells_what_a_run_costs(name: str):
    code, printed = checked(name)
    assert code == 0
    assert "effective batch 4 = 2 x 2 on 1 process" in printed
    assert "learning rate   0.001 = 0.064 * 4 / 256" in printed
    for words in ("parameters ", "memory ", "samples/s", "1500 steps, ETA 0:", "(ok)"):
        assert words in printed


def test_a_step_over_clips_is_checked_too():
    console = Console(file=io.StringIO(), width=100)
    config = load_config("mim4d-demo", {"speed.device": "cpu", "data.image_size": (64, 96)})
    assert check_run(config, uses_store=False, console=console) == 0
    printed, length = console.file.getvalue(), f"{config.optim.steps} steps, ETA"
    for words in ("method          mim4d on cpu", "backbone 11.19 M", length, "(ok)"):
        assert words in printed


def test_without_the_store_epochs_have_no_end():
    _, printed = checked("mae-demo", **{"optim.steps": None, "optim.epochs": 3})
    assert "3 epochs; for an ETA: --check data=store" in printed


def test_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checked("mae-demo")
    assert list(tmp_path.iterdir()) == []


def test_a_step_of_many_parts_is_measured_by_one(monkeypatch):
    taken = []
    monkeypatch.setattr(checking, "take_step", spy(checking.take_step, taken))
    code, printed = checked("mae-demo", **{"data.batch_size": 8, "optim.accumulate": 8})
    assert code == 0
    assert [run.config.optim.accumulate for run, *_ in taken] == [1, 1]
    assert " 8 x 0." in printed


def test_a_first_step_that_took_long_is_measurement_enough(monkeypatch):
    taken = []
    monkeypatch.setattr(checking, "LONG_S", 0.0)
    monkeypatch.setattr(checking, "take_step", spy(checking.take_step, taken))
    assert checked("mae-demo")[0] == 0
    assert len(taken) == 1


def test_a_long_step_gives_signs_of_life(monkeypatch):
    assert "taking a step" not in checked("mae-demo")[1]
    monkeypatch.setattr(checking, "SIGN_S", 1e-3)
    _, printed = checked("mae-demo")
    assert "taking a step: 0 s so far, " in printed
    assert printed.rindex("taking a step") < printed.index("parameters ")


def test_a_store_too_small_for_the_split_is_checked_and_the_refusal_told(tmp_path: Path):
    convert(FakeSource(count=2, frames=8), tmp_path / "store")
    store = {"data.path": str(tmp_path / "store"), "data.stride": 1}
    code, printed = checked("mae-demo", uses_store=True, **store, **{"data.val": "scenes:9"})
    assert code == 0
    assert "a run would be refused: data.val: val=scenes:9 must leave scenes" in printed
    assert "loading " in printed
    fits = store | {"data.val": "scenes:1"}
    assert "refused" not in checked("mae-demo", uses_store=True, **fits)[1]


def test_a_store_too_small_for_the_batch_is_checked_as_far_as_it_holds_a_part(tmp_path: Path):
    convert(FakeSource(count=2, frames=8), tmp_path / "store")
    store = {"data.path": str(tmp_path / "store"), "data.stride": 1, "data.val": "scenes:1"}
    store |= {"data.batch_size": 32}
    code, printed = checked("mae-demo", uses_store=True, **store, **{"optim.accumulate": 8})
    assert code == 0
    refusal = "data.batch_size must be at most the 8 frames to train on, got 32"
    assert f"a run would be refused: {refusal}" in printed
    assert "effective batch 32 = 8 x 4" in printed
    with pytest.raises(ConfigError, match=r"data\.batch_size must be at most the 16 frames"):
        checked("mae-demo", uses_store=True, **store, **{"optim.accumulate": 1})


def spy(function, calls):
    def called(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return called
