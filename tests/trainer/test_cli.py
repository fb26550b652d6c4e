import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from geomim_data.convert import convert
from tests.geomim_data.recordings import FakeSource
from trainer.capture import NonFiniteError
from trainer.cli import main
from trainer.config_file import load_config
from trainer.pretraining import RunResult


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["trainer", "trainer.cli", "trainer.config_file"])
def test_importing_costs_no_torch(module: str):
    result = python(f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


def test_help_imports_neither_torch_nor_pydantic():
    code = """
import sys
from trainer.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
sys.exit(len({"torch", "pydantic", "numpy", "rich"} & set(sys.modules)))
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert "usage: geomim-train" in result.stdout
    assert "mask3d-demo.yaml" in result.stdout


def test_printing_a_config_imports_no_torch():
    code = """
import sys
from trainer.cli import main
main(["mae-demo", "--print-config"])
sys.exit('torch' in sys.modules)
"""
    assert python(code).returncode == 0


def test_a_printed_config_is_the_resolved_one(capsys, tmp_path: Path):
    assert main(["mae-demo", "optim.blr=1e-4", "--print-config", "seed=5"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    config = load_config(path)
    assert (config.optim.blr, config.seed) == (1e-4, 5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing.yaml"], 2, "nothing.yaml: no such file, nor a packaged config (mae-demo.yaml"),
        (["mae-demo", "sede=1"], 2, "sede=1: unknown key 'sede'; did you mean 'seed'?"),
        (["mae-demo", "data=store"], 2, "data=store: data must be a mapping, got 'store'"),
        (["mae-demo", "seed"], 2, "an override must read key=value, got 'seed'"),
        (["mae-demo", "data.path=/absent", "out=$OUT"], 1, "/absent"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(capsys, tmp_path, arguments, code, words):
    arguments = [argument.replace("$OUT", str(tmp_path / "run")) for argument in arguments]
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert printed.out == ""


def test_without_a_config_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "the following arguments are required: CONFIG" in capsys.readouterr().err


def test_too_little_memory_names_the_remedy(monkeypatch, capsys):
    def fail(_: object) -> RunResult:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr("trainer.pretraining.pretrain", fail)
    assert main(["mae-demo"]) == 1
    assert capsys.readouterr().err == (
        "CUDA out of memory. Remedy: raise optim.accumulate or lower data.val_batch_size\n"
    )


def test_too_many_steps_that_are_not_finite_are_one_line(monkeypatch, capsys):
    def fail(_: object) -> RunResult:
        raise NonFiniteError("11 steps had a loss that is not finite")

    monkeypatch.setattr("trainer.pretraining.pretrain", fail)
    assert main(["mae-demo"]) == 1
    assert capsys.readouterr().err == "11 steps had a loss that is not finite\n"


def test_a_second_interrupt_ends_at_once(monkeypatch, capsys):
    def fail(_: object) -> RunResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.pretraining.pretrain", fail)
    assert main(["mae-demo"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    convert(FakeSource(count=2, frames=8), tmp_path / "store")
    return tmp_path / "store"


SMALL = [
    "data.image_size=[16,24]",
    "data.batch_size=4",
    "data.val=scenes:1",
    "model.encoder={patch_size: 8, dim: 16, heads: 2, depth: 1}",
    "model.decoder={dim: 16, heads: 2, depth: 1}",
    "speed={device: cpu, threads: 1}",
    "log.every=1",
]


def test_a_check_on_the_store_tells_the_time_of_all_epochs(capsys, store: Path):
    words = ["optim.steps=null", "optim.epochs=3", f"data.path={store}", "data.workers=0"]
    assert main(["mask3d-demo", *SMALL, *words, "--check", "data=store"]) == 0
    assert "length          6 steps, ETA 0:" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_and_ends_the_command(store: Path, number):
    """Launchers signal every process of the group, loading workers included."""
    out = store.parent / "run"
    words = [f"data.path={store}", f"out={out}", "data.workers=2", "optim.steps=100000"]
    command = [sys.executable, "-m", "trainer", "mask3d-demo", *SMALL, *words]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and "lr" in metrics.read_text()):
        time.sleep(0.1)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == (130 if number == signal.SIGINT else 0)
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["signal"]) == ("stopped", number.name)
    assert (out / "checkpoints" / f"step-{status['step']}" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "code"), [(None, 0), ("SIGTERM", 0), ("SIGUSR1", 0), ("SIGINT", 130)]
)
def test_the_exit_code_tells_how_a_run_ended(monkeypatch, name: str | None, code: int):
    result = RunResult(Path("x"), "stopped" if name else "finished", 3, signal=name)
    monkeypatch.setattr("trainer.pretraining.pretrain", lambda _: result)
    assert main(["mae-demo"]) == code
