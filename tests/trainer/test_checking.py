import io

import pytest
from rich.console import Console

from trainer.checking import check_run
from trainer.config_file import load_config

SMALL = {
    "data": {"image_size": (16, 24), "batch_size": 4},
    "model.encoder": {"dim": 16, "heads": 2, "depth": 1},
    "model.decoder": {"dim": 16, "heads": 2, "depth": 1},
    "optim": {"accumulate": 2, "blr": 0.064},
    "speed.device": "cpu",
}


def checked(name: str, **overrides: object) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=100)
    config = load_config(load_config(name, SMALL), overrides)
    code = check_run(config, uses_store=False, console=console)
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
    printed = console.file.getvalue()
    for words in ("method          mim4d on cpu", "backbone 3.37 M", "300 steps, ETA", "(ok)"):
        assert words in printed


def test_without_the_store_epochs_have_no_end():
    _, printed = checked("mae-demo", **{"optim.steps": None, "optim.epochs": 3})
    assert "3 epochs; for an ETA: --check data=store" in printed


def test_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checked("mae-demo")
    assert list(tmp_path.iterdir()) == []
