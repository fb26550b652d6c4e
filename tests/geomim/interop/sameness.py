"""Tell whether what comes back from another library's values is what went there."""

import torch


def assert_same_camera(ours, theirs):
    """To the last bit: changing conventions adds halves and changes signs."""
    assert type(ours) is type(theirs)
    assert ours.size == theirs.size
    for name, part in ours.parts().items():
        assert torch.equal(part, theirs.parts()[name]), name


def assert_same_pose(ours, theirs):
    torch.testing.assert_close(ours.matrix(), theirs.matrix(), rtol=1e-12, atol=1e-12)
