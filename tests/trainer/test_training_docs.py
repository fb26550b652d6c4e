from pathlib import Path

import pytest

from trainer.config import MaeConfig, Mask3DConfig
from trainer.config_errors import known_keys, section_of
from trainer.config_file import packaged_configs

DOCS = Path(__file__).parents[2] / "docs"
TEXT = "".join((DOCS / name).read_text() for name in ("training.md", "mask3d.md"))


@pytest.mark.parametrize("model", [Mask3DConfig, MaeConfig])
def test_every_setting_is_explained(model: type[Mask3DConfig] | type[MaeConfig]):
    assert [path for path in known_keys(model) if f"{path[-1]}`" not in TEXT] == []


def test_every_packaged_configuration_is_listed():
    assert all(f"`{name}`" in TEXT for name in packaged_configs())


def test_a_section_is_known_from_its_type():
    assert section_of(Mask3DConfig) is Mask3DConfig
    assert section_of(int) is None
