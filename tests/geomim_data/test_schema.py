import json

import pytest

from geomim_data.errors import DataError
from geomim_data.schema import (
    FORMAT_VERSION,
    CameraAttributes,
    Manifest,
    StoreAttributes,
    check_name,
    parse_attributes,
    read_group_attributes,
    read_json,
    read_manifest,
)

MANIFEST = {
    "format_version": FORMAT_VERSION,
    "dataset": "scannet",
    "scenes": {"scene0000_00": {"frames": 3, "valid_poses": 2, "sha256": "0" * 64}},
}


@pytest.mark.parametrize("name", ["scene0000_00", "camera", "a.b", "seq-01"])
def test_a_plain_name_is_kept(name):
    assert check_name(name, what="scene") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "a\nb", "a\0", "é"]
)
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(DataError, match="a scene name must be one path component"):
        check_name(name, what="scene")


def test_a_manifest_is_read_back_as_it_was_written(tmp_path):
    manifest = Manifest.model_validate(MANIFEST)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    assert read_manifest(tmp_path / "manifest.json") == manifest


def test_label_names_survive_json(tmp_path):
    camera = CameraAttributes(
        frames=1,
        valid_poses=1,
        labelled_frames=1,
        rgb_size=(4, 6),
        depth_size=None,
        label_size=(4, 6),
        has_instance=False,
        rgb_bytes=10,
        depth_bytes=0,
        depth_codec=None,
        depth_unit_m=0.001,
        depth_kind="depth",
        source_pixel_centre="integer",
        label_names={1: "wall"},
    )
    assert CameraAttributes.model_validate_json(camera.model_dump_json()) == camera


def test_another_format_version_names_the_remedy(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**MANIFEST, "format_version": 2, "new_key": 1}))
    with pytest.raises(DataError, match="format_version must be 1, got 2; convert the recordings"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"scenes": {"../x": MANIFEST["scenes"]["scene0000_00"]}}, "scenes.*pattern"),
        ({"dataset": 3}, "dataset: Input should be a valid string"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named_with_its_field(tmp_path, change, message):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**MANIFEST, **change}))
    with pytest.raises(DataError, match=f"manifest.json: {message}") as raised:
        read_manifest(path)
    assert "\n" not in str(raised.value)


def test_json_that_is_absent_broken_or_too_large_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a.json: cannot be read \(No such file"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"a.json: is not JSON"):
        read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"a.json: is not JSON"):
        read_json(path)
    monkeypatch.setattr("geomim_data.schema.MAX_JSON_BYTES", 10)
    with pytest.raises(DataError, match=r"a.json: JSON must be at most 10 bytes"):
        read_json(path)


def test_a_group_that_is_not_ours_is_refused(tmp_path):
    path = tmp_path / "zarr.json"
    path.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    with pytest.raises(DataError, match="is not part of a geomim store"):
        read_group_attributes(StoreAttributes, path)


def test_attributes_that_are_not_an_object_are_refused(tmp_path):
    with pytest.raises(DataError, match="content: Input should be a valid dict"):
        parse_attributes(Manifest, [1], tmp_path / "manifest.json")


def test_an_error_is_one_line_whatever_it_quotes():
    assert str(DataError("a: first\nsecond")) == "a: first second"
