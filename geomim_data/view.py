"""Draw a frame of a store: its colour image beside its depth."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8, UInt16
from PIL import Image

from geomim_data.codecs import decode_rgb
from geomim_data.store import open_store

# Turbo (A. Mikhailov, 2019), by the polynomials of its author and R. Schonlau.
_TURBO = np.array(
    [
        [0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943],
        [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604],
        [0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973],
    ]
)
_NEAR_AND_FAR_PERCENT = (2, 98)
_COLOURFUL = (0.08, 0.95)


def turbo(fraction: Float64[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Colour numbers of 0 to 1 from blue over green to red."""
    powers = fraction[..., None] ** np.arange(_TURBO.shape[1])
    return np.round(255 * np.clip(powers @ _TURBO.T, 0, 1)).astype(np.uint8)


def colour_depth(depth: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour depth from red, near, to blue, far; black where there is none."""
    valid = depth > 0
    if not valid.any():
        return np.zeros((*depth.shape, 3), dtype=np.uint8)
    near, far = np.percentile(depth[valid], _NEAR_AND_FAR_PERCENT)
    fraction = np.clip((far - depth.astype(np.float64)) / max(far - near, 1.0), 0, 1)
    # The ends of the map are nearly black, which is what says that there is no depth.
    low, high = _COLOURFUL
    return turbo(low + (high - low) * fraction) * valid[..., None].astype(np.uint8)


def view(path: Path | str, out: Path | str, *, scene: str | None = None, frame: int = 0) -> str:
    """Write a picture of a frame, colour beside depth at the colour image's size.

    Args:
        path: The store.
        out: The picture, of the format that its ending names.
        scene: The scene; by default the first.
        frame: The number of the frame.

    Returns:
        The name of the scene.

    Raises:
        DataError: If the store or the frame is broken.
        ValueError: If there is no such scene or frame.
    """
    store = open_store(path)
    name = store.scenes[0] if scene is None and store.scenes else scene
    if name not in store.scenes:
        raise ValueError(f"scene must be one of {', '.join(store.scenes) or 'none'}, got {name}")
    camera = store.scene(name).camera(store.scene(name).cameras[0])
    if not 0 <= frame < camera.frames:
        raise ValueError(f"frame must be 0 to {camera.frames - 1}, got {frame}")
    parts = [Image.fromarray(decode_rgb(camera.rgb_bytes(frame)))]
    if camera.has_depth:
        depth = Image.fromarray(colour_depth(camera.depth(frame)))
        parts.append(depth.resize(parts[0].size, Image.Resampling.NEAREST))
    picture = Image.new("RGB", (sum(part.width for part in parts), parts[0].height))
    for index, part in enumerate(parts):
        picture.paste(part, (index * part.width, 0))
    picture.save(out)
    return name
