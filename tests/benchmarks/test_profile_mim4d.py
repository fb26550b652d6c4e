import pytest

from benchmarks.profile_mim4d import main, profile
from trainer.config_file import load_config
from trainer.methods.mim4d import model as mim4d_model

SMALL = {"data": {"image_size": (64, 96), "cameras": ["one"], "batch_size": 1}}
PARTS = {"planning", "backbone", "neck", "depth net", "lifting and its convolution", "warping"}
PARTS |= {"temporal decoder", "scene flow", "rendering", "losses", "optimiser"}
ONE_WAY = {"planning", "optimiser"}


def test_every_part_of_a_step_has_its_time_both_ways_and_nothing_is_left_out():
    before = mim4d_model.render_rays
    config = load_config("mim4d-demo", SMALL | {"model.temporal.kind": "both"})
    found = profile(config, kernels="reference", steps=1)
    assert found.parts.keys() == PARTS
    for part, spent in found.parts.items():
        assert spent["forward"] > 0
        assert (spent["backward"] > 0) == (part not in ONE_WAY)
    passed = sum(seconds for spent in found.parts.values() for seconds in spent.values())
    assert passed == pytest.approx(found.total_s, rel=0.1)
    assert mim4d_model.render_rays is before


def test_shares_are_printed(capsys):
    step = ["--config", "mim4d-demo", "--cameras", "1", "--kernels", "reference", "--bf16"]
    assert main(step) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("reference: ")
    assert "temporal decoder" in printed
    assert "%" in printed
