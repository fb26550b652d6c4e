import json
from pathlib import Path

import pytest

from trainer.files import replace_json, replace_text


def test_a_file_is_replaced_whole(tmp_path: Path):
    replace_text(tmp_path / "a.txt", "old and long")
    replace_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_what_cannot_be_written_leaves_the_old(tmp_path: Path):
    replace_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        replace_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
