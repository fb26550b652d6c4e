from pathlib import Path

import pytest

from trainer.config import Mask3DModelConfig

PAGE = Path(__file__).parents[4] / "docs" / "mask3d.md"


@pytest.mark.parametrize("name", Mask3DModelConfig.model_fields)
def test_every_setting_has_a_line_with_its_source(name):
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    described = [line for line in lines if f"`{name}`" in line or f"`{name}." in line]
    assert described
    assert any(tag in described[0] for tag in ("[P]", "[S]", "[A]", "[R]", "[D]", "[ours]"))
