import math

import pytest
import torch

from trainer.metrics import LOG_FLOOR_M, depth_error_sums, depth_metrics


def metrics_of(prediction, target, selected=None):
    prediction, target = torch.tensor([prediction]), torch.tensor([target])
    selected = torch.ones_like(target, dtype=torch.bool) if selected is None else selected
    return depth_metrics(depth_error_sums(prediction, target, selected))


def test_two_pixels_worked_by_hand():
    # Errors 1 of 2 and -2 of 4; ratios 1.5 and 2.
    found = metrics_of([3.0, 2.0], [2.0, 4.0])
    assert found["abs_rel"] == 0.5
    assert found["sq_rel"] == (1 / 2 + 4 / 4) / 2
    assert found["mae"] == 1.5
    assert found["rmse"] == pytest.approx(math.sqrt(2.5))
    logs = (math.log(1.5), math.log(0.5))
    assert found["rmse_log"] == pytest.approx(math.sqrt((logs[0] ** 2 + logs[1] ** 2) / 2))
    assert found["log10"] == pytest.approx((math.log10(1.5) + math.log10(2)) / 2)
    assert found["silog"] == pytest.approx(100 * math.log(3) / 2)
    assert (found["delta1"], found["delta2"], found["delta3"]) == (0, 0.5, 0.5)


def test_a_perfect_prediction_errs_nowhere():
    found = metrics_of([1.5, 7.0], [1.5, 7.0])
    assert [found[f"delta{power}"] for power in (1, 2, 3)] == [1, 1, 1]
    assert all(value == 0 for name, value in found.items() if "delta" not in name)


def test_delta_is_strict():
    assert metrics_of([1.25], [1.0])["delta1"] == 0
    assert metrics_of([1.0], [1.25])["delta1"] == 0
    assert metrics_of([1.24], [1.0])["delta1"] == 1


def test_silog_forgives_a_scale():
    assert metrics_of([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])["silog"] == pytest.approx(0, abs=1e-6)


def test_unselected_pixels_do_not_count():
    selected = torch.tensor([[True, False]])
    assert metrics_of([2.0, math.nan], [1.0, 0.0], selected)["abs_rel"] == 1


def test_predictions_that_are_not_positive_fail_delta_and_stay_finite():
    found = metrics_of([0.0, -5.0], [1.0, 1.0])
    assert found["delta3"] == 0
    assert found["rmse_log"] == pytest.approx(-math.log(LOG_FLOOR_M))
    assert found["abs_rel"] == 3.5


def test_a_prediction_of_nan_is_not_hidden():
    found = metrics_of([math.nan], [1.0])
    assert math.isnan(found["abs_rel"])
    assert found["delta1"] == 0


def test_no_pixel_gives_nan():
    found = metrics_of([1.0], [1.0], torch.tensor([[False]]))
    assert all(math.isnan(value) for value in found.values())


def test_sums_of_parts_add_up_to_the_sums_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 5, 4, 6, generator=generator) + 0.5
    selected = torch.rand(5, 4, 6, generator=generator) < 0.5
    parts = [depth_error_sums(prediction[k], target[k], selected[k]) for k in range(5)]
    whole = depth_error_sums(prediction, target, selected)
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), whole, rtol=1e-12, atol=0)


def test_sums_are_kept_in_float64():
    # In float32, 10000 + 0.0001 would be 10000.
    found = metrics_of([10001.0, 1.0001], [1.0, 1.0])
    assert 2 * found["mae"] == pytest.approx(10000.0001, abs=1e-6)
