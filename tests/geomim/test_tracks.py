import pytest
import torch

from geomim.tracks import TrackedBoxes
from geomim.trajectories import Trajectory
from geomim.transforms import RigidTransform
from tests.geomim.strategies import normal


def test_annotations_become_tracks_in_time():
    times = torch.tensor([20, 10, 10, 30, 20])
    track = torch.tensor([7, 7, 3, 7, 3])
    pose = RigidTransform.exp(normal(5, 6, seed=0))
    size = torch.arange(15.0).reshape(5, 3).double() + 1
    boxes = TrackedBoxes.from_annotations(times, pose, size, track)
    assert boxes.track.tolist() == [3, 7]
    assert boxes.size.tolist() == [size[4].tolist(), size[3].tolist()]
    for row, members in enumerate(([2, 4], [1, 0, 3])):
        found = boxes.world_from_box[row].at(times[members]).world_from_body
        assert torch.equal(found.matrix(), pose[torch.tensor(members)].matrix())
    assert boxes.world_from_box.at(30).valid.tolist() == [False, True]


def test_two_boxes_of_a_track_at_one_instant_are_refused():
    pose, size = RigidTransform.exp(normal(2, 6, seed=0)), torch.ones(2, 3).double()
    with pytest.raises(ValueError, match="timestamps_us must increase strictly, got 5 after 5"):
        TrackedBoxes.from_annotations(torch.tensor([5, 5]), pose, size, torch.tensor([1, 1]))


def test_no_annotations_are_no_boxes():
    boxes = TrackedBoxes.from_annotations(
        torch.empty(0).long(), RigidTransform.identity(0), torch.empty(0, 3), torch.empty(0).long()
    )
    assert boxes.count == 0
    assert boxes.world_from_box.at(0).valid.shape == (0,)
    assert boxes.world_from_box.at(torch.zeros(0, 4).long()).valid.shape == (0, 4)


def test_parts_that_do_not_fit_are_refused():
    path = Trajectory(torch.zeros(2, 1).long(), RigidTransform.identity(2, 1))
    with pytest.raises(ValueError, match=r"must be \(box,\), .* got \(2,\), \(3, 3\) and \(3,\)"):
        TrackedBoxes(path, torch.ones(3, 3), torch.arange(3))
    with pytest.raises(ValueError, match=r"size must be positive and finite, got \[\[1.0, 0.0"):
        TrackedBoxes(path, torch.tensor([[1.0, 0.0, 1.0]] * 2), torch.arange(2))


def test_boxes_move_to_another_dtype():
    path = Trajectory(torch.zeros(2, 1).long(), RigidTransform.identity(2, 1))
    boxes = TrackedBoxes(path, torch.ones(2, 3), torch.arange(2)).to(dtype=torch.float64)
    assert boxes.size.dtype == boxes.world_from_box.dtype == torch.float64
