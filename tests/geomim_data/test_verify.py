import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import simplejpeg
import zarr

from geomim_data.codecs import encode_plane
from geomim_data.convert import convert
from geomim_data.findings import RULES
from geomim_data.verify import verify
from tests.geomim_data.recordings import FakeSource, Heard, rgb_file

SCENE = "scene0001_00"
RGB = f"scenes/{SCENE}/camera/rgb/c/0"
DEPTH = f"scenes/{SCENE}/camera/depth/c/0/0/0"
LEVELS = ["manifest", "checksum", "decode"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "store"
    convert(FakeSource(labels=True), out)
    return out


@pytest.fixture
def store(finished, tmp_path):
    """A copy to break."""
    return shutil.copytree(finished, tmp_path / "store")


def rules(path, level="manifest"):
    return sorted({finding.rule for finding in verify(path, level)})


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("level", LEVELS)
def test_a_sound_store_has_no_findings(finished, level):
    assert verify(str(finished), level) == []


def test_progress_is_heard(finished):
    heard = Heard()
    verify(finished, "checksum", progress=heard)
    assert (heard.scenes, heard.frames[SCENE], heard.finished[SCENE]) == (2, (3, 3), None)


def test_processes_find_the_same_as_one(store):
    flip(store / RGB, 3)
    flip(store / DEPTH, 3)
    assert verify(store, "decode", workers=2) == verify(store, "decode")


@pytest.mark.parametrize("name", [RGB, DEPTH, f"scenes/{SCENE}/camera/pose_valid/c/0"])
def test_a_missing_file_is_found_at_every_level(store, name):
    (store / name).unlink()
    for level in LEVELS:
        assert "STR002" in rules(store, level)
    finding = next(finding for finding in verify(store) if finding.rule == "STR002")
    assert finding.where == name.removeprefix("scenes/")
    assert "cannot be read (No such file" in finding.message


def test_a_file_of_another_size_is_found_at_every_level(store):
    with (store / RGB).open("ab") as file:
        file.write(b"x")
    [finding] = verify(store)
    assert str(finding).startswith(f"STR003 error {SCENE}/camera/rgb/c/0: has ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (RGB, ["SUM002", "SUM003"]),
        (DEPTH, ["SUM002", "SUM004"]),
        (f"scenes/{SCENE}/camera/label/c/0/0/0", ["SUM002", "SUM004"]),
    ],
)
def test_a_flipped_byte_is_found_from_checksum_on(store, name, expected):
    flip(store / name, 3)
    assert rules(store) == []
    assert rules(store, "checksum") == expected
    found = {finding.where for finding in verify(store, "checksum")}
    assert found == {name.removeprefix("scenes/"), f"{SCENE}[frame 0]"}


@pytest.mark.parametrize("name", ["camera/zarr.json", "camera/rgb/zarr.json"])
def test_a_changed_space_in_metadata_is_found_by_checksum(store, name):
    path = store / "scenes" / SCENE / name
    path.write_text(path.read_text().replace("\n", " ", 1))
    assert rules(store, "checksum") == ["SUM002"]


def test_a_changed_scene_record_is_found(store):
    path = store / "scenes" / SCENE / "zarr.json"
    path.write_text(path.read_text() + " ")
    assert rules(store) == ["SUM001"]


def test_a_small_array_with_a_flipped_byte_is_found(store):
    flip(store / f"scenes/{SCENE}/camera/world_from_cam/c/0/0/0", 9)
    assert rules(store) == ["FMT004"]


@pytest.mark.parametrize(
    ("array", "name", "value", "rule"),
    [
        ("depth", "depth_unit_m", 0.0002, "REF002"),
        ("depth", "depth_kind", "distance", "REF002"),
        ("rgb_intrinsics", "size", [1, 2], "REF002"),
        ("depth_intrinsics", "source_pixel_centre", "half", "REF002"),
    ],
)
def test_attributes_that_disagree_are_found(store, array, name, value, rule):
    path = store / "scenes" / SCENE / "camera" / array / "zarr.json"

    def change(content):
        content["attributes"][name] = value

    edit(path, change)
    assert rule in rules(store)


def test_counts_that_disagree_are_found(store):
    def change(content):
        content["scenes"][SCENE]["valid_poses"] = 1

    edit(store / "manifest.json", change)
    [finding] = verify(store)
    assert (finding.rule, finding.where) == ("REC002", SCENE)
    assert finding.message == ("has 3 valid poses, the manifest counts 1")


def test_poses_that_are_not_counted_are_found(store):
    array = zarr.open_array(store / "scenes" / SCENE / "camera/pose_valid", mode="r+")
    array[0] = False
    array = zarr.open_array(store / "scenes" / SCENE / "camera/label_valid", mode="r+")
    array[1] = True
    messages = {finding.message for finding in verify(store) if finding.rule == "REC003"}
    assert messages == {"has 2 valid poses, not 3", "has 3 labelled frames, not 2"}


def test_what_is_not_recorded_is_a_warning(store):
    (store / "notes.txt").write_text("")
    (store / "scenes" / SCENE / "extra.bin").write_text("")
    (store / "scenes" / ".scene0007_00.part").mkdir()
    findings = verify(store)
    assert {(finding.rule, finding.severity) for finding in findings} == {("STR004", "warning")}
    assert {finding.where for finding in findings} == {
        "notes.txt",
        f"{SCENE}/extra.bin",
        "scenes/.scene0007_00.part",
    }


def test_a_link_that_leads_outside_is_found(store, tmp_path):
    (store / RGB).rename(tmp_path / "elsewhere")
    (store / RGB).symlink_to(tmp_path / "elsewhere")
    finding = next(finding for finding in verify(store) if finding.rule == "STR002")
    assert "leads outside of" in finding.message


def test_a_failed_scene_is_found(tmp_path):
    convert(FakeSource(broken={SCENE: {1: "rgb"}}), tmp_path)
    [finding] = verify(tmp_path, "decode")
    assert (finding.rule, finding.where) == ("REC001", SCENE)
    assert "failed in conversion: fake/scene0001_00[frame 1]: the JPEG" in finding.message


def test_an_unfinished_store_is_found(store):
    (store / "manifest.json").unlink()
    [finding] = verify(store)
    assert finding.rule == "STR001"
    assert "is missing: the conversion did not end; run it again" in finding.message


@pytest.mark.parametrize(
    ("name", "content", "rule", "message"),
    [
        ("zarr.json", "{}", "FMT001", "is not the root of a geomim store"),
        ("manifest.json", "{}", "FMT002", "format_version: Field required"),
        ("manifest.json", '{"format_version": 3}', "FMT002", "must be 1 or 2, got 3"),
        (f"scenes/{SCENE}/zarr.json", "{", "FMT003", "is not JSON"),
        (f"scenes/{SCENE}/camera/depth/zarr.json", "{}", "FMT004", "Field required"),
    ],
)
def test_broken_metadata_are_found(store, name, content, rule, message):
    (store / name).write_text(content)
    found = [finding.message for finding in verify(store) if finding.rule == rule]
    assert any(message in each for each in found)


def test_a_folder_without_a_store_is_found(tmp_path):
    [finding] = verify(tmp_path)
    assert (finding.rule, finding.message) == ("STR001", "there is no store here")


def test_another_format_of_the_root_and_another_dataset_are_found(store):
    def version(content):
        content["attributes"]["geomim"]["format_version"] = 3

    def dataset(content):
        content["attributes"]["geomim"] |= {"format_version": 1, "dataset": "other"}

    edit(store / "zarr.json", version)
    assert rules(store) == ["FMT001"]
    edit(store / "zarr.json", dataset)
    assert rules(store) == ["REF001"]
    (store / "scenes/zarr.json").unlink()
    assert rules(store) == ["REF001", "STR002"]


def test_an_image_whose_content_is_broken_is_found_by_decoding_alone(tmp_path, monkeypatch):
    """What a source hands over broken, with its markers in place, has the right checksums."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    whole = simplejpeg.encode_jpeg(noise, quality=100)
    broken = whole[: len(whole) // 2] + b"\xff\xd8" * 40 + whole[-2:]
    monkeypatch.setattr("tests.geomim_data.recordings.rgb_file", Mock(return_value=broken))
    convert(FakeSource(count=1, frames=8), tmp_path)
    assert rules(tmp_path, "checksum") == []
    findings = verify(tmp_path, "decode")
    assert {finding.rule for finding in findings} == {"DEC001"}
    wheres = [finding.where for finding in findings]
    assert wheres == [*(f"scene0000_00[frame {i}]" for i in range(5)), "scene0000_00"]
    assert findings[-1].message == "and 3 more"


def test_a_plane_that_unpacks_to_another_size_is_found_by_decoding_alone(tmp_path, monkeypatch):
    chunk = encode_plane(np.zeros((3, 3), np.uint16), "blosc")
    monkeypatch.setattr("geomim_data.camera_writer.encode_plane", Mock(return_value=chunk))
    convert(FakeSource(count=1, frames=1, deflated=False), tmp_path)
    assert rules(tmp_path, "checksum") == []
    [finding] = verify(tmp_path, "decode")
    assert (finding.rule, finding.where) == ("DEC003", "scene0000_00[frame 0]")
    assert "blosc chunk must unpack" in finding.message


def test_an_image_of_another_size_is_found_by_decoding(tmp_path, monkeypatch):
    other = rgb_file(0, size=(8, 8))
    monkeypatch.setattr("tests.geomim_data.recordings.rgb_file", Mock(return_value=other))
    monkeypatch.setattr("geomim_data.camera_writer.image_size", Mock(return_value=(24, 32)))
    convert(FakeSource(count=1, frames=1), tmp_path)
    [finding] = verify(tmp_path, "decode")
    assert finding.rule == "DEC002"
    assert finding.message == "has (8, 8) pixels, decoded (8, 8), not (24, 32)"


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_of_a_scene_is_found(store):
    files = sorted(path for path in (store / "scenes" / SCENE).rglob("*") if path.is_file())
    for number, path in enumerate(files):
        whole = path.read_bytes()
        flip(path, 37 * number % len(whole))
        assert verify(store, "checksum"), path
        path.write_bytes(whole)


def test_the_documentation_lists_every_rule():
    page = (Path(__file__).parents[2] / "docs/stores.md").read_text()
    listed = dict(re.findall(r"^\| ([A-Z]{3}\d{3}) \| (.*) \|$", page, flags=re.MULTILINE))
    assert listed == RULES
