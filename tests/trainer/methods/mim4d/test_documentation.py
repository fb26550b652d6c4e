from pathlib import Path

import pytest

from trainer.config_errors import field_annotation, known_keys, section_of
from trainer.config_mim4d import Mim4dConfig

DOCS = Path(__file__).parents[4] / "docs"
TRAINING = (DOCS / "training.md").read_text()
PAGES = (DOCS / "mim4d.md").read_text() + TRAINING
SETTINGS = [
    ".".join(map(str, path))
    for path in known_keys(Mim4dConfig)
    if section_of(field_annotation(Mim4dConfig, path)) is None and "vit" not in path
]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_line(name: str):
    last = name.split(".")[-1]
    assert f"`{name}`" in PAGES or f"{last}`" in TRAINING
