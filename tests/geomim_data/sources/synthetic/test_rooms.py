import numpy as np
import pytest

from geomim_data.sources.synthetic.floor_plan import footprint
from geomim_data.sources.synthetic.ground import Ground
from geomim_data.sources.synthetic.labels import CATEGORIES
from geomim_data.sources.synthetic.palette import Palette
from geomim_data.sources.synthetic.rooms import room

SEEDS = (3, 8)


@pytest.fixture(scope="module", params=SEEDS)
def drawn(request):
    return room(request.param)


def arrays(drawn):
    scene = drawn.scene
    pose = scene.primitives.world_from_primitive
    return (pose.translation.numpy(), scene.label, scene.material, scene.atlas.texels)


def test_the_same_seed_gives_the_same_room(furnished):
    for first, second in zip(arrays(furnished), arrays(room(3)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_another_seed_gives_another_room(furnished):
    assert room(4).size != furnished.size


def test_things_stay_inside_the_room(drawn):
    width, depth, height = drawn.size
    for placed in drawn.things:
        if placed.thing.blocks:
            patch = footprint(placed)
            assert min(patch.left, patch.low) >= 0
            assert patch.right <= width
            assert patch.high <= depth
            assert all(
                part.z + part.thing.height() <= height
                for part in placed.all()
                if part.thing.category != "wall"
            )


def test_furniture_does_not_run_into_other_furniture(drawn):
    standing = [footprint(placed) for placed in drawn.things if placed.thing.blocks]
    for index, patch in enumerate(standing):
        assert not any(patch.overlaps(other) for other in standing[:index])


def test_there_is_floor_to_walk_on(drawn):
    assert Ground(drawn.size[:2], drawn.things).free_m2() >= 3.5


def test_labels_are_raw_ids_of_known_categories(drawn):
    known = {category.raw_id for category in CATEGORIES.values()}
    assert set(drawn.scene.label.tolist()) <= known
    assert {1, 2, 3, 4, 5, 41} & set(drawn.scene.label.tolist()) >= {1, 3, 5, 41}


def test_instances_count_things_and_fit_into_eight_bits(drawn):
    things = [part for root in drawn.things for part in root.all()]
    assert sorted(set(drawn.scene.instance.tolist())) == list(range(1, len(things) + 1))
    assert len(things) <= 255


def test_an_instance_has_one_label(drawn):
    pairs = set(zip(drawn.scene.instance.tolist(), drawn.scene.label.tolist(), strict=True))
    assert len(pairs) == len(set(drawn.scene.instance.tolist()))


def test_a_thing_may_wear_a_material_made_for_others():
    palette = Palette(np.random.default_rng(0))
    numbers = [palette.draw("wood") for _ in range(200)]
    worn = [palette.families()[number] for number in numbers]
    assert 0.7 < worn.count("wood") / len(worn) < 0.95
    assert len(set(worn)) > 4


def test_matching_things_share_materials():
    palette = Palette(np.random.default_rng(0))
    numbers = [palette.draw("wood") for _ in range(40)]
    assert 8 < len(set(numbers)) < 32
