"""Pictures of fixed samples: rows of equal tiles under headers, drawn with numpy and pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

HIDDEN = (222, 224, 230)
"""What a hidden patch is painted."""
UNMEASURED = (150, 152, 158)
"""What a pixel without a measurement is painted."""

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 34, 40), (110, 112, 120)
_MARGIN, _GAP, _LINE, _TILE_WIDTH = 16, 6, 20, 256
_BAR_WIDTH, _BAR_TEXT = 12, 52

# Even steps through two published colour maps: near to far (Turbo, Mikhailov 2019) and small to
# large (Inferno, Smith and van der Walt 2015).
_ANCHORS = {
    "depth": (
        (122, 4, 3), (208, 47, 5), (251, 126, 33), (237, 208, 58), (164, 252, 60),
        (50, 242, 152), (40, 188, 235), (70, 107, 227), (48, 18, 59),
    ),
    "error": (
        (0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21),
        (250, 193, 39), (252, 255, 164),
    ),
}  # fmt: skip


class Bar(NamedTuple):
    """A colour scale beside a row, its ends as text."""

    scale: Literal["depth", "error"]
    low: str
    high: str


class Row(NamedTuple):
    """One sample: a line of text, its tiles from left to right, and the scales they use."""

    label: str
    tiles: Sequence[UInt8[np.ndarray, "h w 3"]]
    bars: Sequence[Bar] = ()


def image_to_rgb(image: Float[np.ndarray, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Round colour in 0..1, clipped, to bytes."""
    return (image.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def depth_range(
    depth: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Choose the ends of a colour scale: the valid depth without its outer hundredths.

    Returns:
        Near and far in metres, far the larger; 0 and 1 without a valid pixel.
    """
    if not valid.any():
        return 0.0, 1.0
    near, far = np.percentile(depth[valid], (1, 99))
    return float(near), max(float(far), float(near) + 0.01)


def depth_to_rgb(
    depth: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], *, near: float, far: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Paint depth from red (near, metres) to violet (far), grey where not valid."""
    return _paint("depth", (depth - near) / (far - near), valid)


def error_to_rgb(
    error: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], *, largest: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Paint an absolute error from black (none) to pale yellow (``largest`` and more)."""
    return _paint("error", error / largest, valid)


def cover(
    image: UInt8[np.ndarray, "h w 3"], hidden: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Paint the hidden pixels over."""
    return np.where(hidden[:, :, None], np.array(HIDDEN, dtype=np.uint8), image)


def panel(
    headers: Sequence[str], rows: Sequence[Row], *, footer: str = ""
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw rows of tiles under column headers, small tiles enlarged by a whole factor.

    Raises:
        ValueError: If there is no row, a row has not a tile a header, or tiles differ in size.
    """
    _check(headers, rows)
    height, width = rows[0].tiles[0].shape[:2]
    factor = max(1, round(_TILE_WIDTH / width))
    height, width = height * factor, width * factor
    bars = max(len(row.bars) for row in rows)
    size = (
        2 * _MARGIN + len(headers) * (width + _GAP) + bars * (_BAR_WIDTH + _BAR_TEXT),
        2 * _MARGIN + 2 * _LINE + len(rows) * (_LINE + height + _GAP),
    )
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers):
        draw.text((_MARGIN + column * (width + _GAP), _MARGIN), header, _INK, _font(14))
    for index, row in enumerate(rows):
        top = _MARGIN + _LINE + index * (_LINE + height + _GAP)
        draw.text((_MARGIN, top + 3), row.label, _FAINT, _font(12))
        _draw_row(sheet, row, top=top + _LINE, tile=(width, height))
    draw.text((_MARGIN, size[1] - _MARGIN - _LINE + 6), footer, _FAINT, _font(12))
    return np.asarray(sheet)


def save_png(image: UInt8[np.ndarray, "h w 3"], path: Path) -> None:
    """Write a PNG file."""
    Image.fromarray(image).save(path, format="PNG")


def _check(headers: Sequence[str], rows: Sequence[Row]) -> None:
    if not rows:
        raise ValueError("rows must hold a row or more, got none")
    for row in rows:
        if len(row.tiles) != len(headers):
            raise ValueError(f"rows must have {len(headers)} tiles each, got {len(row.tiles)}")
    sizes = {tile.shape[:2] for row in rows for tile in row.tiles}
    if len(sizes) > 1:
        raise ValueError(f"tiles must have one size, got {sorted(sizes)}")


def _draw_row(sheet: Image.Image, row: Row, *, top: int, tile: tuple[int, int]) -> None:
    width, height = tile
    for column, image in enumerate(row.tiles):
        enlarged = Image.fromarray(image).resize(tile, Image.Resampling.NEAREST)
        sheet.paste(enlarged, (_MARGIN + column * (width + _GAP), top))
    draw = ImageDraw.Draw(sheet)
    left = _MARGIN + len(row.tiles) * (width + _GAP)
    for bar in row.bars:
        ramp = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(_BAR_WIDTH, axis=1)
        colours = _paint(bar.scale, ramp, np.ones(ramp.shape, dtype=np.bool_))
        sheet.paste(Image.fromarray(colours), (left, top))
        text = left + _BAR_WIDTH + 4
        draw.text((text, top), bar.high, _INK, _font(12))
        draw.text((text, top + height - 1), bar.low, _INK, _font(12), anchor="ld")
        left += _BAR_WIDTH + _BAR_TEXT


def _paint(
    scale: Literal["depth", "error"],
    value: Float[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    anchors = np.array(_ANCHORS[scale], dtype=np.float64)
    places = np.linspace(0, 1, len(anchors))
    value = np.where(valid, value, 0.0)
    channels = [np.interp(value, places, anchors[:, channel]) for channel in range(3)]
    colours = np.stack(channels, axis=2).round().astype(np.uint8)
    return np.where(valid[:, :, None], colours, np.array(UNMEASURED, dtype=np.uint8))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
