from dataclasses import replace

import pytest
import torch

from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch
from tests.trainer.methods.mim4d.clips import lose, tiny_clips, tiny_config
from trainer.methods.mim4d.rigs import rig_motion


def clips() -> ClipBatch:
    return tiny_clips(tiny_config(**{"data.offsets": [0, -1, -2]}), batch=2)


def close(one: RigidTransform, other: RigidTransform) -> None:
    torch.testing.assert_close(one.matrix(), other.matrix(), atol=1e-5, rtol=0)


def test_the_rig_is_amid_its_cameras_and_looks_where_the_first_does():
    motion = rig_motion(clips(), key=0)
    torch.testing.assert_close(
        motion.world_from_rig.rotation, torch.eye(3).expand(2, 3, 3, 3), atol=1e-5, rtol=0
    )
    # 10 m/s, a twelfth of a second apart, 1.5 m up.
    torch.testing.assert_close(
        motion.world_from_rig.translation[0],
        torch.tensor([[0.0, 0, 1.5], [-10 / 12, 0, 1.5], [-20 / 12, 0, 1.5]]),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(
        motion.seconds[0], torch.tensor([0, -1 / 12, -2 / 12]), atol=1e-5, rtol=0
    )
    assert motion.valid.all()


def test_a_lost_camera_moves_nothing():
    batch = clips()
    valid = batch.valid.clone()
    valid[0, 1, 0] = valid[1, 2, 3] = False
    close(
        rig_motion(lose(batch, valid), key=0).world_from_rig,
        rig_motion(batch, key=0).world_from_rig,
    )


def test_a_lost_key_frame_leaves_the_others_where_they_were():
    batch = clips()
    valid = batch.valid.clone()
    valid[:, 0] = False
    motion, whole = rig_motion(lose(batch, valid), key=0), rig_motion(batch, key=0)
    assert motion.valid.tolist() == [[False, True, True]] * 2
    close(motion.world_from_rig[:, 1:], whole.world_from_rig[:, 1:])
    close(motion.world_from_rig[:, 0], RigidTransform.identity(2))


def test_a_clip_without_cameras_is_nowhere_and_finite():
    batch = clips()
    motion = rig_motion(lose(batch, torch.zeros_like(batch.valid)), key=0)
    assert not motion.valid.any()
    assert motion.world_from_rig.matrix().isfinite().all()
    assert (motion.seconds == 0).all()


def test_times_of_today_are_exact_to_a_microsecond():
    batch = clips()
    later = replace(batch, timestamp_us=batch.timestamp_us + 1_532_402_930_123_456)
    assert torch.equal(rig_motion(later, key=0).seconds, rig_motion(batch, key=0).seconds)


def test_the_frame_turns_with_the_world():
    batch = clips()
    turn = RigidTransform.exp(torch.tensor([3.0, -2.0, 1.0, 0.2, -0.3, 1.1]))
    turned = replace(batch, world_from_cam=turn @ batch.world_from_cam)
    close(rig_motion(turned, key=0).world_from_rig, turn @ rig_motion(batch, key=0).world_from_rig)


@pytest.mark.parametrize("view", [0, 4])
def test_one_camera_is_a_rig(view: int):
    batch = clips()
    valid = torch.zeros_like(batch.valid)
    valid[:, :, view] = True
    rig = rig_motion(lose(batch, valid), key=0).world_from_rig
    torch.testing.assert_close(
        rig.rotation[..., 0], batch.world_from_cam.rotation[:, :, view, :, 2], atol=1e-5, rtol=0
    )
