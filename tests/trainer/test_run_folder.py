import json
from pathlib import Path

import pytest

from trainer.config_errors import ConfigError
from trainer.config_file import load_config
from trainer.run_folder import claim, digest, environment, identity, sign, write_status

CONFIG = load_config("mae-demo")


def changed(**overrides: object):
    return load_config(CONFIG, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"out": "elsewhere"},
        {"speed.device": "cpu", "speed.amp": "bf16", "speed.threads": 1},
        {"log.every": 3},
        {"checkpoint.keep": 1},
        {"resume": "never"},
        {"data.workers": 0, "data.val_batch_size": 1},
    ],
)
def test_what_changes_no_result_is_no_part_of_a_runs_identity(overrides: dict[str, object]):
    assert digest(changed(**overrides)) == digest(CONFIG)


@pytest.mark.parametrize(
    "overrides",
    [{"seed": 1}, {"data.path": "x"}, {"model.mask_ratio": 0.5}, {"optim.blr": 0.3}],
)
def test_what_changes_the_result_is(overrides: dict[str, object]):
    assert digest(changed(**overrides)) != digest(CONFIG)


def test_the_identity_is_flat():
    assert identity(CONFIG)["model.encoder.patch_size"] == 8


def test_a_new_folder_is_made_and_signed(tmp_path: Path):
    with claim(tmp_path / "a" / "run", CONFIG) as is_resumed:
        assert not is_resumed
        sign(tmp_path / "a" / "run", CONFIG)
    assert load_config(tmp_path / "a" / "run" / "config.yaml").model == CONFIG.model
    with claim(tmp_path / "a" / "run", CONFIG) as is_resumed:
        assert is_resumed


def test_a_run_that_failed_before_it_signed_leaves_the_folder_free(tmp_path: Path):
    with claim(tmp_path, CONFIG):
        write_status(tmp_path, "failed", error="no such store")
    with claim(tmp_path, changed(seed=1)) as is_resumed:
        assert not is_resumed


def test_a_folder_in_use_is_refused(tmp_path: Path):
    with (
        claim(tmp_path / "run", CONFIG),
        pytest.raises(ConfigError, match=r"out: .*run is in use by another process"),
        claim(tmp_path / "run", CONFIG),
    ):
        pytest.fail("both run")


def test_the_environment_names_versions_and_hardware():
    found = environment()
    assert found["packages"]["torch"]
    assert found["cpu_count"]
    assert json.dumps(found)
