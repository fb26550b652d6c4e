import json

import pytest
from pydantic import BaseModel

from geomim_data.errors import DataError
from geomim_data.sources.json_rows import read_rows


class Item(BaseModel):
    name: str
    value: float = 0


def rows(path):
    return [row for _, row in read_rows(path, Item)]


@pytest.mark.parametrize("indent", [None, 0, 3])
@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_rows_come_back_whatever_the_blocks_and_spaces(tmp_path, monkeypatch, indent, block, count):
    monkeypatch.setattr("geomim_data.sources.json_rows._BLOCK_BYTES", block)
    items = [
        {"name": f"é{index}]}},{{", "value": index / 7, "more": [{}]} for index in range(count)
    ]
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert [(row.name, row.value) for row in rows(path)] == [
        (item["name"], item["value"]) for item in items
    ]
    assert [place for place, _ in read_rows(path, Item)][:1] == [f"{path}[row 0]"][:count]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be a JSON array, got the file's end for '\\['"),
        ('{"name": "a"}', "must be a JSON array, got '{' for '\\['"),
        ('[{"name": "a"}', "got the file's end for '\\]'"),
        ('[{"name": "a"} {"name": "b"}]', "got '{' for '\\]'"),
        ('[{"name": "a"}]x', "must end behind its array"),
        ('[{"name": "a"}, {"name": ', r"\[row 1\]: cannot be parsed"),
        ('[{"name": "a"}, {"nam', r"\[row 1\]: cannot be parsed"),
        ('[{"name": "a"},]', r"\[row 1\]: cannot be parsed"),
        ("[" + "[" * 100_000, r"\[row 0\]: cannot be parsed"),
        ('[{"name": 3}]', r"items.json\[row 0\]: name: Input should be a valid string"),
        ("[3]", r"items.json\[row 0\]: content: Input should be a valid dict"),
        (f'[{{"name": "a", "value": {"1" * 5000}}}]', r"\[row 0\]: cannot be parsed"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, content, message):
    path = tmp_path / "items.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        rows(path)
    assert "\n" not in str(caught.value)


def test_sizes_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "items.json"
    path.write_text(json.dumps([{"name": "a"}] * 3))
    monkeypatch.setattr("geomim_data.sources.json_rows.MAX_ROWS", 2)
    with pytest.raises(DataError, match="must have at most 2 rows"):
        rows(path)
    monkeypatch.setattr("geomim_data.sources.json_rows._BLOCK_BYTES", 8)
    monkeypatch.setattr("geomim_data.sources.json_rows.MAX_ROW_CHARACTERS", 50)
    path.write_text('[{"name": "' + "x" * 10_000)
    with pytest.raises(DataError, match=r"\[row 0\]: cannot be parsed, or has more than 50 charac"):
        rows(path)


def test_what_is_missing_or_no_text_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"absent.json: cannot be read: No such file"):
        rows(tmp_path / "absent.json")
    (tmp_path / "items.json").write_bytes(b'[{"name": "\xff\xff"}]')
    with pytest.raises(DataError, match="must be UTF-8 text"):
        rows(tmp_path / "items.json")
