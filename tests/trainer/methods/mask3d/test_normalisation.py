import pytest
import torch

from trainer.methods.mask3d.normalisation import DepthScale, constant_scale, visible_scale


def scale_of(values, valid=None, *, trim=0.1, std_floor_m=0.1):
    values = torch.tensor([values])
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else torch.tensor([valid])
    fallback = constant_scale(7.0, 3.0, like=values)
    found = visible_scale(values, valid, trim=trim, std_floor_m=std_floor_m, fallback=fallback)
    return found.mean.item(), found.std.item()


def test_the_outer_tenths_do_not_count():
    # Of ten values the smallest and the largest go; 2..9 have mean 5.5 and variance 5.25.
    mean, std = scale_of([900.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, -50.0])
    assert mean == 5.5
    assert std == pytest.approx(5.25**0.5)


def test_invalid_values_do_not_count():
    assert scale_of([1.0, 99.0, 3.0], [True, False, True]) == (2.0, 1.0)


def test_a_flat_view_gets_the_floor():
    assert scale_of([2.0] * 20, std_floor_m=0.25) == (2.0, 0.25)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_values_are_never_all_trimmed(count):
    mean, _ = scale_of([4.0] * count, trim=0.49)
    assert mean == 4


def test_nothing_visible_gives_the_fallback():
    assert scale_of([5.0, 6.0], [False, False]) == (7.0, 3.0)
    none = torch.zeros(2, 0)
    found = visible_scale(
        none, none > 0, trim=0.1, std_floor_m=0.1, fallback=constant_scale(7.0, 3.0, like=none)
    )
    assert found.mean.tolist() == [7, 7]
    assert found.std.tolist() == [3, 3]


def test_metres_undoes_normalise():
    scale = DepthScale(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0]))
    depth = torch.rand(2, 3, 4) * 5
    torch.testing.assert_close(scale.metres(scale.normalise(depth)), depth)
    assert scale.normalise(torch.full((2, 1, 1), 3.0)).flatten().tolist() == [4, 0.25]
