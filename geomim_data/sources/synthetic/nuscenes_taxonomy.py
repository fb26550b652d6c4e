"""The tables of nuScenes that every version of it shares: classes, attributes, visibility."""

from typing import Final

from geomim_data.sources.synthetic.nuscenes_tokens import Row, token
from geomim_data.sources.synthetic.rig import CAMERAS, LIDAR

_CATEGORIES: Final = (
    *("human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.wheelchair"),
    *("human.pedestrian.stroller", "human.pedestrian.personal_mobility"),
    *("human.pedestrian.police_officer", "human.pedestrian.construction_worker", "animal"),
    *("vehicle.car", "vehicle.motorcycle", "vehicle.bicycle", "vehicle.bus.bendy"),
    *("vehicle.bus.rigid", "vehicle.truck", "vehicle.construction"),
    *("vehicle.emergency.ambulance", "vehicle.emergency.police", "vehicle.trailer"),
    *("movable_object.barrier", "movable_object.trafficcone"),
    *("movable_object.pushable_pullable", "movable_object.debris", "static_object.bicycle_rack"),
)
_ATTRIBUTES: Final = (
    *("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider"),
    *("cycle.without_rider", "pedestrian.sitting_lying_down", "pedestrian.standing"),
    "pedestrian.moving",
)
_VISIBILITY: Final = ((0, 40), (40, 60), (60, 80), (80, 100))


def shared_tables() -> dict[str, list[Row]]:
    """Return the tables that do not depend on what was recorded."""
    return {
        "category": [
            {"token": category_token(name), "name": name, "description": ""} for name in _CATEGORIES
        ],
        "attribute": [
            {"token": attribute_token(name), "name": name, "description": ""}
            for name in _ATTRIBUTES
        ],
        "visibility": [
            {
                "token": str(number),
                "level": f"v{low}-{high}",
                "description": f"visibility of whole object is between {low} and {high}%",
            }
            for number, (low, high) in enumerate(_VISIBILITY, 1)
        ],
        "sensor": [
            {
                "token": sensor_token(channel),
                "channel": channel,
                "modality": "lidar" if channel == LIDAR else "camera",
            }
            for channel in (*CAMERAS, LIDAR)
        ],
    }


def category_token(name: str) -> str:
    """Return the token of a class."""
    return token("category", name)


def attribute_token(name: str) -> str:
    """Return the token of an attribute."""
    return token("attribute", name)


def sensor_token(channel: str) -> str:
    """Return the token of a sensor."""
    return token("sensor", channel)


def visibility_token(share: float) -> str:
    """Return the token of the bin for the share of something that shows."""
    return str(1 + sum(100 * share > high for _, high in _VISIBILITY[:-1]))
