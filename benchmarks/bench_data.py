"""Load decoded RGB-D frames and convert a ScanNet scan, our way beside the usual ones.

Frames are made up, and also taken from the ``sens`` folder of ``$GEOMIM_REAL_DATA`` where that is
set. Contenders read the same frames in the same random order; before the clock starts they are
checked to give the same planes.
"""

import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import final

import cv2
import numpy as np
import simplejpeg
import zarr

from benchmarks.measure import Contender, Workload
from geomim_data.camera_reader import CameraReader
from geomim_data.codecs import decode_rgb
from geomim_data.convert import convert
from geomim_data.sources.scannet import ScanNetSource
from geomim_data.sources.sens import SensFile, SensHeader
from geomim_data.sources.sens_writer import encode_frame, write_sens
from geomim_data.store import open_store

SIZE, TINY_SIZE = (480, 640), (48, 64)
FRAMES, TINY_FRAMES = 480, 2  # ScanNet's scans have some 1600
PICTURES = 32
READS = 16

Images = tuple[np.ndarray, np.ndarray]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A root that holds one scan, and where to put what is made of it."""

    name: str
    root: Path
    scratch: Path

    @property
    def sens(self) -> Path:
        """The scan's recording."""
        return next(self.root.glob("*/*.sens"))


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield loading and converting, over made-up frames and then over real ones."""
    cv2.setNumThreads(1)
    for name, make in scans(tiny=tiny):
        with tempfile.TemporaryDirectory() as folder:
            scan = Scan(name, make(Path(folder) / "scannet"), Path(folder))
            yield loading(scan)
            yield converting(scan)


def scans(*, tiny: bool) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Yield the names of scans and what makes each below a new root."""
    size, frames = (TINY_SIZE, TINY_FRAMES) if tiny else (SIZE, FRAMES)
    yield f"{size[1]}x{size[0]}", lambda root: made_up_scan(root, size=size, frames=frames)
    real = os.environ.get("GEOMIM_REAL_DATA")
    if real and not tiny:
        yield "real", lambda _: Path(real) / "sens"


def loading(scan: Scan) -> Workload:
    """Decode the colour and depth of frames in random order."""
    kept = stored(scan, "auto")
    files = plain_files(scan)
    order = np.random.default_rng(0).integers(0, kept.frames, READS).tolist()
    loaders: dict[str, Callable[[int], Images]] = {
        "jpg + png16, simplejpeg + cv2": lambda i: load_files(files, i, jpeg=decode_file),
        "jpg + png16, cv2": lambda i: load_files(files, i, jpeg=cv2_file),
        "store, depth kept (gzip)": store_loader(kept),
        "store, depth blosc": store_loader(stored(scan, "blosc")),
        "store, zarr-python": zarr_loader(scan.scratch / "auto"),
    }
    expected = loaders["jpg + png16, simplejpeg + cv2"](0)
    for name, load in loaders.items():
        rgb, depth = load(0)
        np.testing.assert_array_equal(depth, expected[1], err_msg=name)
        # JPEG decoders differ in rounding and in how they enlarge chroma.
        np.testing.assert_allclose(rgb.mean(), expected[0].mean(), atol=1, err_msg=name)
    return Workload(
        name=f"load {READS} RGB-D frames, {scan.name}",
        contenders=tuple(
            Contender(name, lambda load=load: [load(i) for i in order])
            for name, load in loaders.items()
        ),
        nbytes=READS * sum(plane.nbytes for plane in expected),
        dtype="uint8 + uint16",
    )


def converting(scan: Scan) -> Workload:
    """Convert the scan, each time to a new place."""
    places = (scan.scratch / f"out{number}" for number in count())

    def ours() -> None:
        convert(ScanNetSource(scan.root), next(places))

    def re_encoding() -> None:
        re_encode(scan.sens, next(places))

    source = scan.sens.stat().st_size
    with SensFile(scan.sens) as sens:
        frames = len(sens)
    return Workload(
        name=f"convert {frames} frames, {scan.name}",
        contenders=(Contender("cv2, JPEG + PNG16", re_encoding), Contender("convert", ours)),
        nbytes=source,
        dtype="bytes",
        note=f"the store is {size_ratio(scan):.4f} times as large as its {source} byte .sens",
    )


def size_ratio(scan: Scan) -> float:
    """Return the size of the scan's store, depth kept as it is, over the recording's."""
    stored(scan, "auto")
    files = [path for path in (scan.scratch / "auto").rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / scan.sens.stat().st_size


def stored(scan: Scan, depth_codec: str) -> CameraReader:
    """Open the camera of the scan's store, converted when first asked for."""
    out = scan.scratch / depth_codec
    if not out.exists():
        convert(ScanNetSource(scan.root), out, depth_codec=depth_codec)
    store = open_store(out)
    return store.scene(store.scenes[0]).camera()


def store_loader(camera: CameraReader) -> Callable[[int], Images]:
    """Load through our reader, checksums included."""
    return lambda frame: (decode_rgb(camera.rgb_bytes(frame)), camera.depth(frame))


def zarr_loader(store: Path) -> Callable[[int], Images]:
    """Load through zarr-python's arrays, which check no JPEG's checksum."""
    group = zarr.open_group(store / "scenes", mode="r")
    camera = f"{next(iter(group.group_keys()))}/camera"
    rgb, depth = group[f"{camera}/rgb"], group[f"{camera}/depth"]
    offset, nbytes = (group[f"{camera}/rgb_{name}"][:] for name in ("offset", "nbytes"))

    def load(frame: int) -> Images:
        data = rgb[offset[frame] : offset[frame] + nbytes[frame]].tobytes()
        return simplejpeg.decode_jpeg(data), depth[frame]

    return load


def plain_files(scan: Scan) -> Path:
    """Lay the scan out as one JPEG, byte for byte, and one 16-bit PNG a frame."""
    folder = scan.scratch / "files"
    folder.mkdir()
    with SensFile(scan.sens) as sens:
        for index in range(len(sens)):
            frame = sens.frame(index)
            (folder / f"{index}.jpg").write_bytes(frame.rgb)
            cv2.imwrite(str(folder / f"{index}.png"), inflate(frame.depth, sens.header.depth_size))
    return folder


def load_files(folder: Path, frame: int, *, jpeg: Callable[[Path], np.ndarray]) -> Images:
    """Load plain files."""
    depth = cv2.imread(str(folder / f"{frame}.png"), cv2.IMREAD_UNCHANGED)
    return jpeg(folder / f"{frame}.jpg"), depth


def decode_file(path: Path) -> np.ndarray:
    """Decode by the library that our reader uses."""
    return simplejpeg.decode_jpeg(path.read_bytes())


def cv2_file(path: Path) -> np.ndarray:
    """Decode by OpenCV."""
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def re_encode(path: Path, out: Path) -> None:
    """Do what extraction scripts do: decode, then encode colour as JPEG and depth as PNG."""
    out.mkdir()
    with SensFile(path) as sens:
        for index in range(len(sens)):
            frame = sens.frame(index)
            rgb = cv2.imdecode(np.frombuffer(frame.rgb, np.uint8), cv2.IMREAD_COLOR)
            cv2.imwrite(str(out / f"{index}.jpg"), rgb)
            cv2.imwrite(str(out / f"{index}.png"), inflate(frame.depth, sens.header.depth_size))


def inflate(payload: bytes, size: tuple[int, int]) -> np.ndarray:
    """Unpack a depth plane."""
    return np.frombuffer(zlib.decompress(payload), "<u2").reshape(size)


def made_up_scan(root: Path, *, size: tuple[int, int], frames: int) -> Path:
    """Write a scan of textured, slanted surfaces with noise, and return its root."""
    height, width = size
    matrix = np.eye(4)
    matrix[[0, 1], [0, 1]], matrix[:2, 2] = 0.9 * width, (width / 2, height / 2)
    header = SensHeader(matrix, matrix, "jpeg", "zlib", size, size)
    folder = root / "scene0000_00"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    encoded = [
        encode_frame(header, *images, np.eye(4), timestamp_us=33_333 * index)
        for index in range(min(frames, PICTURES))
        for images in [picture(random, size, phase=0.1 * index)]
    ]
    write_sens(folder / "scene0000_00.sens", header, islice(cycle(encoded), frames))
    return root


def picture(random: np.random.Generator, size: tuple[int, int], *, phase: float) -> Images:
    """Draw colour with grain, and depth in the steps of a disparity sensor, with holes."""
    v, u = np.mgrid[: size[0], : size[1]] / size[1]
    waves = [np.sin((20 + 9 * c) * u + phase) * np.cos((30 - 7 * c) * v + c) for c in range(3)]
    rgb = 128 + 80 * np.stack(waves, axis=-1) + random.normal(0, 4, (*size, 3))
    inverse_depth = np.maximum(0.3 + 0.4 * u, 0.25 + 0.5 * np.sin(6 * v + phase) ** 2)
    steps = np.round(350 * inverse_depth + random.normal(0, 0.2, size))
    depth = np.where(np.sin(17 * u + phase) * np.sin(13 * v) > 0.85, 0, 350_000 / steps)
    return rgb.clip(0, 255).astype(np.uint8), depth.astype(np.uint16)
