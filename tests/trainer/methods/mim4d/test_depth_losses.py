import math

import pytest
import torch

from trainer.methods.mim4d.depth_losses import depth_bin_loss
from trainer.methods.mim4d.rays import LidarPixels

EDGES = torch.tensor([1.0, 3.0, 5.0, 7.0])


def lidar(depth):
    """Make one image's points; 0 is none."""
    depth = torch.tensor(depth)[None, None, None]
    return LidarPixels(depth, torch.zeros(*depth.shape, 2), depth > 0)


def likely(*places):
    """Make a map with one row, of as many places as there are distributions over three bins."""
    return torch.tensor(places).T[None, None, None, :, None]


def test_a_place_is_judged_by_the_bin_of_its_nearest_point():
    points = lidar([[6.5, 2.0, 0.0, 0.0], [0.0, 0.0, 4.0, 5.5]])
    maps = likely([0.5, 0.3, 0.2], [0.1, 0.8, 0.1])
    expected = -(math.log(0.5) + math.log(0.8)) / 2
    assert float(depth_bin_loss([maps], EDGES, points)) == pytest.approx(expected)


@pytest.mark.parametrize("depth", [0.0, 0.5, 7.0, 30.0])
def test_places_without_a_point_in_any_bin_have_no_say(depth):
    points = lidar([[depth, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    maps = likely([0.1, 0.1, 0.8], [0.1, 0.4, 0.5]).requires_grad_()
    loss = depth_bin_loss([maps], EDGES, points)
    assert float(loss.detach()) == pytest.approx(-math.log(0.4))
    loss.backward()
    assert maps.grad is not None
    assert maps.grad[..., 0].abs().sum() == 0


def test_levels_are_added_and_nothing_at_all_is_zero():
    points = lidar([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    fine = torch.full((1, 1, 1, 3, 2, 4), 0.2)
    coarse = likely([0.5, 0.3, 0.2], [0.1, 0.8, 0.1])
    expected = -math.log(0.2) - math.log(0.5)
    assert float(depth_bin_loss([fine, coarse], EDGES, points)) == pytest.approx(expected)
    assert float(depth_bin_loss([coarse], EDGES, lidar([[0.0] * 4] * 2))) == 0.0


def test_a_bin_held_to_be_impossible_costs_much_but_not_infinitely():
    points = lidar([[2.0, 0.0], [0.0, 0.0]])
    loss = depth_bin_loss([likely([0.0, 1.0, 0.0])], EDGES, points)
    assert 10 < float(loss) < 20
