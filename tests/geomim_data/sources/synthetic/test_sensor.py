import numpy as np

from geomim_data.sources.synthetic.rendering import DepthView
from geomim_data.sources.synthetic.sensor import depth_in_mm


def flat(depth_m, facing=1.0):
    return DepthView(np.full((60, 80), depth_m), np.full((60, 80), facing))


def measure(view, hole_fraction=0.0):
    return depth_in_mm(view, hole_fraction=hole_fraction, rng=np.random.default_rng(0))


def test_depth_is_rounded_to_millimetres():
    assert (measure(flat(2.34561)) == 2346).all()


def test_depth_beyond_sixteen_bits_is_none():
    assert (measure(flat(70.0)) == 0).all()


def test_exact_depth_has_no_holes():
    assert (measure(flat(9.0, facing=0.01)) == 9000).all()


def test_blobs_cover_the_share_asked_for():
    missed = measure(flat(2.0), 0.1) == 0
    assert abs(missed.mean() - 0.1) < 0.01
    assert (missed[:, 1:] & missed[:, :-1]).mean() > 0.07, "specks, not blobs"


def test_the_sensor_misses_what_is_edge_on_or_far():
    assert (measure(flat(2.0, facing=0.05), 0.01) == 0).all()
    assert (measure(flat(8.5), 0.01) == 0).all()


def test_the_sensor_misses_what_its_projector_cannot_reach():
    depth = np.full((60, 80), 3.0)
    depth[:, 40:] = 1.0
    missed = measure(DepthView(depth, np.ones_like(depth)), 1e-6) == 0
    assert missed[:, 38:40].all()
    assert missed.mean() < 0.03
