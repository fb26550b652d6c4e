import numpy as np
import pytest

from geomim_data.sources.synthetic.motion import Ride, make_pace
from geomim_data.sources.synthetic.track import make_track

PIECES = [(50.0, 0.0), (20.0, 1 / 18), (10.0, 0.0), (30.0, -1 / 40), (50.0, 0.0)]


@pytest.fixture
def track():
    return make_track(PIECES, begin=-50.0, xy=(100.0, 200.0), heading=0.3)


@pytest.mark.parametrize("offset", [-8.0, 0.0, 3.0, 8.0])
def test_locating_undoes_going_there(track, offset):
    along = np.linspace(-80, 150, 401)
    found = track.locate(track.at(along, offset).xy)
    np.testing.assert_allclose(found[:, 0], along, atol=1e-9)
    np.testing.assert_allclose(found[:, 1], offset, atol=1e-9)


def test_the_heading_is_the_direction_of_the_line(track):
    along, step = np.linspace(-80, 150, 401), 1e-5
    ahead = (track.at(along + step, 0.0).xy - track.at(along - step, 0.0).xy) / (2 * step)
    heading = track.at(along, 0.0).heading
    expected = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    np.testing.assert_allclose(ahead, expected, atol=1e-5)


def test_a_quarter_circle_worked_by_hand():
    track = make_track([(10.0, 0.0), (5 * np.pi, 0.1), (10.0, 0.0)], begin=0.0)
    xy, heading = track.at(np.array([10 + 5 * np.pi]), np.array([2.0]))
    np.testing.assert_allclose(xy, [[18.0, 10.0]], atol=1e-12)
    np.testing.assert_allclose(heading, np.pi / 2)


def test_a_track_that_would_go_round_for_ever_is_refused():
    with pytest.raises(ValueError, match="pieces must begin and end straight, got"):
        make_track([(10.0, 0.0), (5.0, 0.1)], begin=0.0)


def test_a_pace_brakes_to_a_halt_and_goes_on():
    pace = make_pace(3.0, 8.0, [(1.0, -2.0), (5.0, 0.0), (6.0, 1.0)])
    time_s = np.array([-1.0, 0.0, 1.0, 3.0, 5.0, 6.0, 8.0])
    np.testing.assert_allclose(pace.at(time_s), [-5.0, 3.0, 11.0, 23.0, 27.0, 27.0, 29.0])
    np.testing.assert_allclose(pace.speed_at(time_s), [8.0, 8.0, 8.0, 4.0, 0.0, 0.0, 2.0])


def test_a_shifted_pace_is_ahead_and_gains(track):
    pace = make_pace(3.0, 8.0, [(1.0, -2.0), (4.0, 0.5)])
    time_s = np.linspace(0, 6, 50)
    np.testing.assert_allclose(
        pace.shifted(10.0, 0.5).at(time_s), pace.at(time_s) + 10 + time_s / 2
    )


@pytest.mark.parametrize(("offset", "turned"), [(-2.0, 0.0), (5.0, np.pi)])
def test_speed_is_that_of_the_place(track, offset, turned):
    ride = Ride(track, make_pace(-20.0, 9.0), offset, turned)
    time_s, step = np.linspace(0.05, 12, 97), 1e-5
    moved = np.linalg.norm(ride.at(time_s + step).xy - ride.at(time_s - step).xy, axis=1)
    np.testing.assert_allclose(moved / (2 * step), ride.speed_at(time_s), atol=1e-3)


def test_at_one_speed_the_yaw_rate_is_constant_on_each_piece(track):
    ride = Ride(track, make_pace(-20.0, 9.0), -2.0)
    time_s = np.linspace(0, 12, 1201)
    rate = np.diff(ride.at(time_s).heading) / np.diff(time_s)
    known = 9 * np.array([curvature for _, curvature in PIECES])
    away = np.abs(rate[:, None] - known).min(axis=1)
    assert (away < 1e-9).mean() > 0.99
