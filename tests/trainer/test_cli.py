import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("name", "code"), [(None, 0), ("SIGTERM", 0), ("SIGUSR1", 0), ("SIGINT", 130)]
)
def test_the_exit_code_tells_how_a_run_ended(monkeypatch, name: str | None, code: int):
    result = RunResult(Path("x"), "stopped" if name else "finished", 3, signal=name)
    monkeypatch.setattr("trainer.pretraining.pretrain", lambda _: result)
    assert main(["mae-demo"]) == code
