"""Procedural rooms and streets with exact depth, and datasets of them in real on-disk formats."""

from geomim_data.sources.synthetic.nuscenes import (
    image_size,
    recorded_drive,
    synthesize_nuscenes,
)
from geomim_data.sources.synthetic.nuscenes_scene import RecordedDrive
from geomim_data.sources.synthetic.rendering import (
    DepthView,
    RenderedView,
    render,
    render_depth,
    render_scene,
)
from geomim_data.sources.synthetic.rooms import Room, room
from geomim_data.sources.synthetic.scannet import scaled_sizes, scan_room, synthesize_scannet
from geomim_data.sources.synthetic.spinning_lidar import Sweep
from geomim_data.sources.synthetic.streets import Street, street
from geomim_data.sources.synthetic.walk import walk

__all__ = [
    "DepthView",
    "RecordedDrive",
    "RenderedView",
    "Room",
    "Street",
    "Sweep",
    "image_size",
    "recorded_drive",
    "render",
    "render_depth",
    "render_scene",
    "room",
    "scaled_sizes",
    "scan_room",
    "street",
    "synthesize_nuscenes",
    "synthesize_scannet",
    "walk",
]
