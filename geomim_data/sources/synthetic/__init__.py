"""Procedural rooms with exact depth and labels, and datasets of them in real on-disk formats."""

from geomim_data.sources.synthetic.rendering import DepthView, RenderedView, render, render_depth
from geomim_data.sources.synthetic.rooms import Room, room
from geomim_data.sources.synthetic.scannet import scaled_sizes, scan_room, synthesize_scannet
from geomim_data.sources.synthetic.walk import walk

__all__ = [
    "DepthView",
    "RenderedView",
    "Room",
    "render",
    "render_depth",
    "room",
    "scaled_sizes",
    "scan_room",
    "synthesize_scannet",
    "walk",
]
