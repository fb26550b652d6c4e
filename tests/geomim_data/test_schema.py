import json
from pathlib import Path

import pytest

from geomim_data.errors import DataError
from geomim_data.schema import (
    FORMAT_VERSION,
    CameraAttributes,
    Manifest,
    StoreAttributes,
    check_name,
    parse_attributes,
    parse_group,
    parse_json,
)

MANIFEST = {
    "format_version": FORMAT_VERSION,
    "dataset": "scannet",
    "scenes": {"scene0000_00": {"frames": 3, "valid_poses": 2, "sha256": "0" * 64}},
}


PATH = Path("shards/manifest.json")


def parse(content):
    return parse_attributes(Manifest, parse_json(content.encode(), PATH), PATH)


@pytest.mark.parametrize("name", ["scene0000_00", "camera", "a.b", "seq-01"])
def test_a_plain_name_is_kept(name):
    assert check_name(name, what="scene") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "a\nb", "a\0", "é"]
)
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(DataError, match="a scene name must be one path component"):
        check_name(name, what="scene")


def test_a_manifest_is_read_back_as_it_was_written():
    manifest = Manifest.model_validate(MANIFEST)
    assert parse(manifest.model_dump_json()) == manifest


def test_label_names_survive_json():
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


def test_another_format_version_names_the_remedy():
    with pytest.raises(DataError, match="format_version must be 1 or 2, got 3; convert the rec"):
        parse(json.dumps({**MANIFEST, "format_version": 3, "new_key": 1}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"scenes": {"../x": MANIFEST["scenes"]["scene0000_00"]}}, "scenes.*pattern"),
        ({"dataset": 3}, "dataset: Input should be a valid string"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named_with_its_field(change, message):
    with pytest.raises(DataError, match=f"shards/manifest.json: {message}") as raised:
        parse(json.dumps({**MANIFEST, **change}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "1" * 5000])
def test_broken_json_is_one_line(content):
    with pytest.raises(DataError, match=r"shards/manifest.json: is not JSON"):
        parse(content)


def test_a_group_that_is_not_ours_is_refused():
    content = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
    with pytest.raises(DataError, match="is not part of a geomim store"):
        parse_group(StoreAttributes, content.encode(), PATH)


def test_attributes_that_are_not_an_object_are_refused():
    with pytest.raises(DataError, match="content: Input should be a valid dict"):
        parse("[1]")


def test_an_error_is_one_line_whatever_it_quotes():
    assert str(DataError("a: first\nsecond")) == "a: first second"
