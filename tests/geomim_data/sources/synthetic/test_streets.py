import numpy as np
import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.rendering import render_scene
from geomim_data.sources.synthetic.street_boxes import boxes_at, unoccluded_pixels
from geomim_data.sources.synthetic.street_plan import DRIVES, KERB_M
from geomim_data.sources.synthetic.streets import street

from .surfaces import distances_to_surface


@pytest.fixture(scope="module", params=DRIVES)
def built(request):
    return street(5, seconds=4.0, drive=request.param, middle=(300.0, 500.0))


@pytest.fixture(scope="module")
def one():
    return street(5, seconds=4.0, drive="curve")


@pytest.fixture(scope="module")
def wide():
    focal = torch.tensor([60.0, 60.0], dtype=torch.float64)
    return PinholeCamera(focal, torch.tensor([48.0, 28.0], dtype=torch.float64), (54, 96))


def looking_ahead(built, time_s):
    forward = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]).double()
    ego_from_cam = RigidTransform(forward, torch.tensor([1.7, 0.0, 1.5], dtype=torch.float64))
    return built.ego.world_from_ego(np.array([time_s]))[0] @ ego_from_cam


def test_the_car_keeps_to_its_side_and_stays_in_the_middle_of_its_square(built):
    pose = built.ego.world_from_ego(np.linspace(0, 4, 41))
    along, offset = built.plan.track.locate(pose.translation[:, :2].numpy()).T
    assert (np.diff(along) > -1e-9).all()
    assert (-built.plan.lanes * built.plan.lane_m < offset).all()
    assert (offset < -1).all()
    ends = built.plan.track.at(np.linspace(*built.plan.ends, 200), 0.0).xy
    np.testing.assert_allclose((ends.min(axis=0) + ends.max(axis=0)) / 2, (300, 500), atol=1)


def test_a_car_that_stops_stands_before_the_crossing():
    stopping = street(5, seconds=4.0, drive="stop")
    time_s = np.array([3.0, 4.0])
    pose = stopping.ego.world_from_ego(time_s)
    np.testing.assert_array_equal(pose.translation[0], pose.translation[1])
    along = stopping.plan.track.locate(pose.translation[:, :2].numpy())[:, 0]
    assert 2 < stopping.plan.crossing_m - along[0] < 8


def test_moving_things_do_not_run_into_each_other(built):
    moving = [n for n in built.moving() if not built.actors[n].category.startswith("human")]
    for time_s in np.linspace(0, 4, 5).tolist():
        boxes = boxes_at(built, time_s)
        corners = np.concatenate([boxes.corners(number) for number in moving])
        holds = boxes.holding(corners)[moving].reshape(len(moving), len(moving), 8).any(axis=2)
        assert not (holds & ~np.eye(len(moving), dtype=np.bool_)).any()


def test_nothing_stands_on_the_road(built):
    plan, scene = built.plan, built.scene
    count = built.still().kind.shape[0]
    place = scene.primitives.world_from_primitive.translation[:count].numpy()
    upright = np.isin(scene.label[:count], (3, 4, 5, 6, 7, 8)) & (place[:, 2] < 3)
    away = np.abs(plan.track.locate(place[:, :2])[:, 1])
    assert (away[upright] > plan.kerb_m - 0.5).all()


def test_the_scene_at_a_time_has_moving_things_at_their_places_then(built):
    scene = built.at(2.0)
    before = built.scene.primitives.world_from_primitive
    after = scene.primitives.world_from_primitive
    count = built.still().kind.shape[0]
    np.testing.assert_array_equal(after.translation[:count], before.translation[:count])
    for number in built.moving():
        pose = built.world_from_thing(number, np.array([2.0]))[0]
        expected = pose.apply(built.own_solids[number].world_from_primitive.translation)
        found = after.translation[built.solids_of[number]]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_solids_lie_within_the_boxes_of_their_things(one):
    for actor, solids in zip(one.actors, one.own_solids, strict=True):
        pose, half = solids.world_from_primitive, solids.half_size
        reach = (pose.rotation.abs() * half[:, None, :]).sum(dim=-1)
        width, length, height = actor.body.size
        level = torch.tensor([width / 2, length / 2], dtype=torch.float64)
        low, high = pose.translation - reach, pose.translation + reach
        assert (high[:, :2] <= level + 1e-9).all()
        assert (low[:, :2] >= -level - 1e-9).all()
        assert high[:, 2].max() <= height + 1e-9


def test_depth_lies_on_the_surface_of_what_is_seen(one, wide):
    scene, pose = one.at(1.0), looking_ahead(one, 1.0)
    view = render_scene(scene, wide, pose)
    points, valid = wide.unproject(wide.pixel_grid(), torch.from_numpy(view.depth_m))
    points_world = pose.apply(points).numpy().reshape(-1, 3)
    seen = valid.numpy().ravel()
    nearest = np.full(len(seen), np.inf)
    for number in np.unique(view.instance[view.instance > 0]).tolist():
        which = np.flatnonzero((view.instance.ravel() == number) & seen)
        for solid in np.flatnonzero(scene.instance == number):
            away = distances_to_surface(
                points_world[which], np.full(len(which), solid), scene.primitives
            )
            nearest[which] = np.minimum(nearest[which], away)
    assert nearest[seen].max() < 1e-6
    assert 0.5 < seen.mean() < 1


def test_a_picture_is_lit_and_not_clipped(built, wide):
    rgb = render_scene(built.at(0.0), wide, looking_ahead(built, 0.0)).rgb
    assert 60 < rgb.mean() < 190
    assert rgb.std() > 20
    assert (rgb.min(axis=-1) >= 254).mean() < 0.03
    assert (rgb.max(axis=-1) <= 4).mean() < 0.03


def test_lines_are_painted_where_the_plan_says(one):
    plan, paving = one.plan, one.scene.paving
    along = np.linspace(0, 30, 61)
    down = np.tile([0.0, 0.0, -1.0], (61, 1))

    def colours(offset):
        xy = plan.track.at(along, offset).xy
        place = np.column_stack([xy, np.zeros(61)])
        return paving.reflectance(place, down, np.full(61, 0.01))

    yellow, road = colours(0.14), colours(0.6)
    assert (yellow[:, 0] - yellow[:, 2] > 0.3).all()
    assert (colours(plan.kerb_m + KERB_M / 2)[:, 0] > 2 * road[:, 0]).all()
    assert road.max() < 0.3


def test_what_nothing_hides_shows_whole(one, wide):
    pose = looking_ahead(one, 1.0)
    view = render_scene(one.at(1.0), wide, pose)
    whole = unoccluded_pixels(one, wide, pose, 1.0)
    shown = np.array([(view.instance == one.instance(n)).sum() for n in range(len(one.actors))])
    assert (shown <= whole).all()
    assert (shown == whole)[shown > 0].any()
    assert (shown < whole).any()


def test_the_same_seed_gives_the_same_street_and_another_one_does_not():
    first, again, other = (street(seed, seconds=2.0) for seed in (3, 3, 4))
    for name in ("label", "material", "texture_offset"):
        np.testing.assert_array_equal(getattr(first.scene, name), getattr(again.scene, name))
    assert len(first.scene.label) != len(other.scene.label)
