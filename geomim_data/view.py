"""Draw a frame of a store: colour beside depth, or a rig."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from geomim_data.camera_reader import CameraReader
from geomim_data.codecs import decode_rgb
from geomim_data.drawing import warmth
from geomim_data.rig_view import view_rig
from geomim_data.store import open_store

_NEAR_AND_FAR_PERCENT = (2, 98)


def colour_depth(depth: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour depth from red, near, to blue, far; black where there is none."""
    valid = depth > 0
    if not valid.any():
        return np.zeros((*depth.shape, 3), dtype=np.uint8)
    near, far = np.percentile(depth[valid], _NEAR_AND_FAR_PERCENT)
    colours = warmth(depth, cold=max(far, near + 1.0), warm=near)
    return colours * valid[..., None].astype(np.uint8)


def view(
    path: Path | str,
    out: Path | str,
    *,
    scene: str | None = None,
    sensors: Sequence[str] | None = None,
    frame: int = 0,
) -> str:
    """Write a picture of a moment.

    Of a camera with depth that is colour beside depth, at the colour image's size; of a driving
    scene what :func:`~geomim_data.rig_view.view_rig` draws.

    Args:
        path: The store.
        out: The picture, of the format that its ending names.
        scene: The scene; by default the first.
        sensors: Of the scene; by default those of a rig, or the one camera.
        frame: Of the first sensor.

    Returns:
        The name of the scene.

    Raises:
        DataError: If the store or the frame is broken.
        ValueError: If there is no such scene, sensor or frame.
    """
    store = open_store(path)
    name = store.scenes[0] if scene is None and store.scenes else scene
    if name not in store.scenes:
        raise ValueError(f"scene must be one of {', '.join(store.scenes) or 'none'}, got {name}")
    opened = store.scene(name)
    if sensors is None and len(opened.cameras) == 1 and not opened.lidars:
        picture = _view_camera(opened.camera(opened.cameras[0]), frame)
    else:
        picture = view_rig(opened, sensors=sensors, frame=frame)
    picture.save(out)
    return name


def _view_camera(camera: CameraReader, frame: int) -> Image.Image:
    if not 0 <= frame < camera.frames:
        raise ValueError(f"frame must be 0 to {camera.frames - 1}, got {frame}")
    parts = [Image.fromarray(decode_rgb(camera.rgb_bytes(frame)))]
    if camera.has_depth:
        depth = Image.fromarray(colour_depth(camera.depth(frame)))
        parts.append(depth.resize(parts[0].size, Image.Resampling.NEAREST))
    picture = Image.new("RGB", (sum(part.width for part in parts), parts[0].height))
    for index, part in enumerate(parts):
        picture.paste(part, (index * part.width, 0))
    return picture
