import pytest

from geomim_data.errors import DataError
from geomim_data.files import file_sha256, open_inside, read_inside, replace_file, sync_tree


def test_a_replaced_file_has_the_new_content_and_leaves_no_other(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / ".a.json.part").write_text("left by a crash")
    replace_file(tmp_path / "a.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_inside(tmp_path / "a.json", tmp_path, limit=3) == b"new"


def test_no_more_than_the_limit_is_read(tmp_path):
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(DataError, match="a: must be at most 10 bytes"):
        read_inside(tmp_path / "a", tmp_path, limit=10)


@pytest.mark.parametrize("name", ["../secret", "folder/../../secret"])
def test_a_path_that_leads_outside_is_refused(tmp_path, name):
    (tmp_path / "secret").write_text("")
    (tmp_path / "store/folder").mkdir(parents=True)
    with pytest.raises(DataError, match=r"secret: leads outside of .*store"):
        open_inside(tmp_path / "store" / name, tmp_path / "store")


def test_the_digest_of_a_file_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc", tmp_path).startswith("ba7816bf8f01cfea")


def test_a_tree_with_many_files_is_synced(tmp_path):
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_bytes(b"x")
    sync_tree(tmp_path)
