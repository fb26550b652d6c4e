import contextlib
import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geomim_data.codecs import gzip_from_zlib, image_size
from geomim_data.errors import DataError
from geomim_data.recording import Deflated
from geomim_data.sources.scannet import ScanNetSource

FIRST_FRAME = 304 + len("StructureSensor")
LABEL_MAP = "id\traw_category\tnyu40id\n1\twall\t1\n21\tshelf\t15\n1357\tsock\t40\n"


def png(plane: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(plane).save(buffer, "png")
    return buffer.getvalue()


def label_plane(frame: int) -> np.ndarray:
    plane = np.full((12, 16), 1357, dtype=np.uint16)
    plane[0] = [0, 1, 21, 999, *[1] * 12]
    plane[1] = frame
    return plane


def instance_plane(frame: int) -> np.ndarray:
    return np.full((12, 16), frame + 3, dtype=np.uint8)


def read_frames(root: Path, scene: str = "scene0000_00", **options: object) -> list:
    with ScanNetSource(root, **options).open(scene) as recording:
        return list(recording.cameras[0].read.frames())


@pytest.fixture
def root(tmp_path, write_small_sens) -> Path:
    for folder in ("scans/scene0000_00", "scans/scene0000_01", "scans_test/scene0707_00"):
        name = Path(folder).name
        write_small_sens(tmp_path / folder / f"{name}.sens", frames=5)
    (tmp_path / "scans/scene0000_00/scene0000_00.txt").write_text(
        "numDepthFrames = 6\nsceneType = Office\n"
    )
    return tmp_path


@pytest.fixture
def labelled(root) -> Path:
    (root / "scannetv2-labels.combined.tsv").write_text(LABEL_MAP)
    scan = root / "scans/scene0000_00"
    for series, plane in (("label-filt", label_plane), ("instance-filt", instance_plane)):
        (scan / series).mkdir()
        for frame in (0, 2, 4):
            (scan / series / f"{frame}.png").write_bytes(png(plane(frame)))
    return root


def test_scans_are_found_where_a_release_puts_them(root):
    assert ScanNetSource(root).scenes() == ["scene0000_00", "scene0000_01", "scene0707_00"]
    assert ScanNetSource(root / "scans").scenes() == ["scene0000_00", "scene0000_01"]
    assert [len(read_frames(root, scene)) for scene in ScanNetSource(root).scenes()] == [5, 5, 5]


def test_a_source_travels_to_other_processes(root):
    source = ScanNetSource(root, stride=2, labels=False)
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - just made


def test_a_scan_whose_sens_is_missing_fails_by_name(root):
    (root / "scans/scene0001_00").mkdir()
    assert "scene0001_00" in ScanNetSource(root).scenes()
    with pytest.raises(DataError, match=r"scene0001_00\.sens: cannot be opened: No such file"):
        ScanNetSource(root).open("scene0001_00")


def test_a_missing_root_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder; pass --root or set GEOMIM_SCANNET"):
        ScanNetSource(tmp_path / "none").scenes()


def test_a_root_without_scans_says_what_is_expected(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"holds no scans; expected <scan>/<scan>\.sens, or scans/"):
        ScanNetSource(tmp_path).scenes()


def test_another_scan_is_refused(root):
    with pytest.raises(DataError, match=r"holds no scan '\.\./scans'"):
        ScanNetSource(root).open("../scans")


def test_a_split_chooses_and_orders(root):
    split = root / "split.txt"
    split.write_text("scene0707_00\n\n# later\nscene0000_00\nscene0707_00\n")
    source = ScanNetSource(root, split=split)
    assert source.scenes() == ["scene0707_00", "scene0000_00"]
    assert source.arguments()["split"] == ["scene0707_00", "scene0000_00"]


def test_a_split_of_scans_that_are_not_there_is_refused(root):
    split = root / "split.txt"
    split.write_text("scene0000_00\n" + "".join(f"scene8{i:03}_00\n" for i in range(7)))
    with pytest.raises(DataError, match=r"7 of 8 scans are not in .*: scene8000_00, ") as caught:
        ScanNetSource(root, split=split).scenes()
    assert str(caught.value).endswith("scene8004_00, ...")
    split.write_text("scene8000_00\n")
    with pytest.raises(DataError, match=r"1 of 1 scans are not in .*: scene8000_00$"):
        ScanNetSource(root, split=split).scenes()


def test_an_empty_split_is_refused(root):
    (root / "split.txt").write_text("\n")
    with pytest.raises(DataError, match=r"split\.txt: must name at least one scan, got none"):
        ScanNetSource(root, split=root / "split.txt").scenes()


def test_a_stride_below_one_is_refused(root):
    with pytest.raises(ValueError, match="stride must be 1 or more, got 0"):
        ScanNetSource(root, stride=0)


@pytest.mark.parametrize(("stride", "kept"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (9, [0])])
def test_a_stride_keeps_every_nth_frame(root, stride, kept):
    frames = read_frames(root, stride=stride)
    assert [frame.world_from_cam[0, 3] for frame in frames] == kept
    assert [frame.rgb_timestamp_us for frame in frames] == [33_333 * index for index in kept]
    with ScanNetSource(root, stride=stride).open("scene0000_00") as recording:
        assert recording.cameras[0].frames == len(kept)


def test_the_camera_is_told_in_our_pixels(root):
    with ScanNetSource(root).open("scene0000_00") as recording:
        assert recording.name == "scene0000_00"
        (camera,) = recording.cameras
        assert recording.scan_info()["sceneType"] == "Office"
    assert camera.name == "camera"
    assert (camera.frames, camera.rgb_size, camera.depth_size) == (5, (12, 16), (6, 8))
    assert camera.rgb_intrinsics.tolist() == [20, 21, 8, 6]
    assert camera.depth_intrinsics is not None
    assert camera.depth_intrinsics.tolist() == [10, 10.5, 4, 3]
    assert (camera.source_pixel_centre, camera.depth_kind) == ("integer", "depth")
    assert camera.depth_unit_m == 0.001
    assert camera.label_size is None
    assert camera.label_names is None


def test_a_broken_scan_info_names_its_line(root):
    (root / "scans/scene0000_00/scene0000_00.txt").write_text("a = 1\nsceneType\n")
    with (
        ScanNetSource(root).open("scene0000_00") as recording,
        pytest.raises(
            DataError, match=r"scene0000_00\.txt:2: must be key = value, got 'sceneType'"
        ),
    ):
        recording.scan_info()


def test_jpeg_and_png_bytes_are_kept_and_depth_stays_deflated(
    tmp_path, write_small_sens, make_frames, make_images, header
):
    for scene, form in (("scene0000_00", "jpeg"), ("scene0000_01", "png")):
        write_small_sens(tmp_path / scene / f"{scene}.sens", rgb_compression=form)
        for index, frame in enumerate(read_frames(tmp_path, scene)):
            assert isinstance(frame.depth, Deflated)
            assert (frame.depth.height, frame.depth.width) == (6, 8)
            rgb, depth = make_images(index)
            assert zlib.decompress(frame.depth.payload) == depth.tobytes()
            if form == "jpeg":
                assert frame.rgb == make_frames(header, 3)[index].rgb
            else:
                with Image.open(io.BytesIO(frame.rgb)) as image:
                    np.testing.assert_array_equal(np.asarray(image), rgb)


def test_raw_colour_becomes_png_and_raw_depth_a_plane(tmp_path, write_small_sens, make_images):
    path = tmp_path / "scene0000_00/scene0000_00.sens"
    write_small_sens(path, rgb_compression="raw", depth_compression="raw")
    for index, frame in enumerate(read_frames(tmp_path)):
        rgb, depth = make_images(index)
        np.testing.assert_array_equal(frame.depth, depth)
        with Image.open(io.BytesIO(frame.rgb)) as image:
            assert image.format == "PNG"
            np.testing.assert_array_equal(np.asarray(image), rgb)


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_lost_poses_are_passed_on_as_read(root, value):
    path = root / "scans/scene0000_00/scene0000_00.sens"
    data = bytearray(path.read_bytes())
    struct.pack_into("<16f", data, FIRST_FRAME, *[value] * 16)
    path.write_bytes(data)
    frames = read_frames(root)
    np.testing.assert_array_equal(frames[0].world_from_cam, np.full((4, 4), value))
    assert len(frames) == 5


def break_jpeg(root: Path, change) -> None:
    """Change the first frame's JPEG, keeping its length."""
    path = root / "scans/scene0000_00/scene0000_00.sens"
    data = bytearray(path.read_bytes())
    (nbytes,) = struct.unpack_from("<Q", data, FIRST_FRAME + 80)
    span = slice(FIRST_FRAME + 96, FIRST_FRAME + 96 + nbytes)
    data[span] = change(data[span])
    path.write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda jpeg: b"\0\0" + jpeg[2:],
        lambda jpeg: jpeg[:-2] + b"\0\0",
        lambda jpeg: jpeg[:2] + bytes(40) + jpeg[42:],
    ],
    ids=["no start", "no end", "no header"],
)
def test_a_jpeg_without_start_end_or_header_is_refused(root, change):
    break_jpeg(root, change)
    with pytest.raises(DataError, match=r"scene0000_00\.sens\[frame 0\]: .*(JPEG|image)"):
        read_frames(root)


def test_a_jpeg_of_another_size_is_refused(root):
    path = root / "scans/scene0000_00/scene0000_00.sens"
    data = bytearray(path.read_bytes())
    struct.pack_into("<2I", data, 276 + len("StructureSensor"), 17, 12)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"\[frame 0\]: .* size 12x17, got 12x16"):
        read_frames(root)


def test_an_image_in_another_form_than_the_header_says_is_refused(root):
    path = root / "scans/scene0000_00/scene0000_00.sens"
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 268 + len("StructureSensor"), 1)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"\[frame 0\]: colour must be png .*, got jpeg"):
        read_frames(root)


def test_a_broken_frame_that_the_stride_skips_is_not_read(root):
    path = root / "scans/scene0000_00/scene0000_00.sens"
    whole = path.read_bytes()
    second = FIRST_FRAME + 96 + sum(struct.unpack_from("<2Q", whole, FIRST_FRAME + 80))
    path.write_bytes(whole[: second + 96] + bytes(2) + whole[second + 98 :])
    assert len(read_frames(root, stride=2)) == 3
    with pytest.raises(DataError, match=r"\[frame 1\]"):
        read_frames(root)


@pytest.mark.parametrize("rgb", ["raw", "png", "jpeg"])
def test_flipped_and_cut_scans_are_refused_or_read(tmp_path, write_small_sens, rgb):
    path = tmp_path / "scene0000_00/scene0000_00.sens"
    whole = np.frombuffer(write_small_sens(path, rgb_compression=rgb).read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(len(rgb))
    read = 0
    for _ in range(100):
        data = whole.copy()
        places = rng.integers(0, rng.choice([FIRST_FRAME + 200, len(data)]), 2)
        data[places] ^= rng.integers(1, 256, 2, dtype=np.uint8)
        path.write_bytes(data[: rng.choice([len(data), rng.integers(0, len(data))])].tobytes())
        with contextlib.suppress(DataError):
            for frame in read_frames(tmp_path):
                assert image_size(frame.rgb)[0] > 0
                size = frame.depth.height * frame.depth.width * 2
                assert len(gzip_from_zlib(frame.depth.payload, size)) > 0
                read += 1
    assert read > 0


def test_raw_ids_become_nyu40_and_frames_without_labels_have_none(labelled):
    frames = read_frames(labelled)
    assert [frame.label is None for frame in frames] == [False, True, False, True, False]
    assert frames[0].label[0, :5].tolist() == [0, 1, 15, 0, 1]
    assert (frames[0].label[2:] == 40).all()
    assert frames[0].label.dtype == np.uint16
    np.testing.assert_array_equal(frames[4].instance, instance_plane(4))
    assert frames[4].instance.dtype == np.uint16


def test_labels_have_their_own_size_and_names(labelled):
    with ScanNetSource(labelled).open("scene0000_00") as recording:
        (camera,) = recording.cameras
    assert camera.label_size == (12, 16)
    assert camera.has_instance
    assert camera.label_names is not None
    assert camera.label_names[39] == "otherfurniture"
    with ScanNetSource(labelled).open("scene0707_00") as recording:
        assert recording.cameras[0].label_size is None


def test_the_released_zips_give_the_same_labels(labelled):
    folders = read_frames(labelled)
    scan = labelled / "scans/scene0000_00"
    for series in ("label-filt", "instance-filt"):
        with zipfile.ZipFile(scan / f"scene0000_00_2d-{series}.zip", "w") as archive:
            for path in (scan / series).iterdir():
                archive.write(path, f"{series}/{path.name}")
                path.unlink()
        (scan / series).rmdir()
    for found, known in zip(read_frames(labelled), folders, strict=True):
        assert (found.label is None) == (known.label is None)
        if known.label is not None:
            np.testing.assert_array_equal(found.label, known.label)
            np.testing.assert_array_equal(found.instance, known.instance)


def test_unfiltered_labels_are_read_where_there_are_no_others(labelled):
    scan = labelled / "scans/scene0000_00"
    for kind in ("label", "instance"):
        (scan / f"{kind}-filt").rename(scan / kind)
    assert read_frames(labelled)[0].label is not None
    (scan / "label-filt").mkdir()
    assert read_frames(labelled)[0].label is None


def test_labels_without_their_map_are_one_clear_error(labelled):
    (labelled / "scannetv2-labels.combined.tsv").unlink()
    message = r"scannetv2-labels\.combined\.tsv is missing, .*\(--label_map\) or pass --no-labels"
    with pytest.raises(DataError, match=message):
        ScanNetSource(labelled).scenes()
    with pytest.raises(DataError, match=message):
        ScanNetSource(labelled).open("scene0000_00")
    assert len(ScanNetSource(labelled, labels=False).scenes()) == 3
    assert read_frames(labelled, labels=False)[0].label is None


def test_what_changes_the_result_is_told(labelled):
    arguments = ScanNetSource(labelled, stride=3).arguments()
    assert (arguments["stride"], arguments["labels"], arguments["split"]) == (3, True, None)
    assert len(str(arguments["label_map_sha256"])) == 64
    assert ScanNetSource(labelled, labels=False).arguments()["label_map_sha256"] is None


def test_a_label_of_another_size_or_kind_is_refused(labelled):
    path = labelled / "scans/scene0000_00/label-filt/2.png"
    path.write_bytes(png(np.zeros((6, 8), np.uint16)))
    with pytest.raises(DataError, match=r"label-filt/2\.png: .* size 12x16, got 6x8"):
        read_frames(labelled)
    path.write_bytes(png(np.zeros((12, 16, 3), np.uint8)))
    with pytest.raises(DataError, match=r"label-filt/2\.png: must be a greyscale PNG"):
        read_frames(labelled)


def test_a_broken_zip_of_labels_closes_the_scan(labelled):
    scan = labelled / "scans/scene0000_01"
    (scan / "scene0000_01_2d-label-filt.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"2d-label-filt\.zip: cannot be read as a zip"):
        ScanNetSource(labelled).open("scene0000_01")


def test_the_real_scan_is_found_and_read(real_data):
    source = ScanNetSource(real_data / "sens")
    assert source.scenes() == ["scene9000_00"]
    with source.open("scene9000_00") as recording:
        (camera,) = recording.cameras
        frames = list(camera.read.frames())
    assert (camera.frames, camera.rgb_size, camera.depth_size) == (24, (360, 540), (360, 540))
    np.testing.assert_allclose(camera.rgb_intrinsics[2:], [270.002897, 169.694112], atol=1e-5)
    lost = [i for i, frame in enumerate(frames) if not np.isfinite(frame.world_from_cam).all()]
    assert lost == [17]
    assert np.isneginf(frames[17].world_from_cam).all()
