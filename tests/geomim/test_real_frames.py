"""Recorded RGB-D frames, warped from one view to the next."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim.warping import reproject_depth, warp_image

LABELS = (48, 132)


def recorded(folder):
    root = os.environ.get("GEOMIM_REAL_DATA")
    if root is None:
        pytest.skip("GEOMIM_REAL_DATA is not set: no recorded frames to reproject")
    return Path(root) / folder


def read_images(paths):
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def camera_of(matrix_file, size):
    matrix = torch.from_numpy(np.loadtxt(matrix_file)).float()
    return PinholeCamera.from_matrix(matrix, size=size, source_pixel_centre="integer")


def walk():
    """Camera, depth in metres and poses of 32 frames of a walk."""
    folder = recorded("rgbd_hololens")
    names = [Path(name).stem for name in (folder / "frames.txt").read_text().split()]
    depth_mm = read_images(folder / "depth" / f"{name}.png" for name in names)
    depth = torch.from_numpy(depth_mm.astype(np.float32)) / 1000
    poses = torch.from_numpy(np.loadtxt(folder / "poses.txt")).reshape(-1, 4, 4).float()
    camera = camera_of(folder / "K.txt", depth.shape[1:])
    return camera, depth, RigidTransform.from_matrix(poses)


def shelf():
    """Camera, depth in metres, labels and poses of 8 views of a shelf."""
    folder = recorded("rgbd_labelled_shelf")
    names = sorted(path.name.removesuffix(".pose.txt") for path in folder.glob("*.pose.txt"))
    coded = read_images(folder / f"{name}.depth.png" for name in names).astype(np.uint16)
    # SUN3D rotates the bits of a tenth of a millimetre by three.
    depth = torch.from_numpy((coded >> 3 | coded << 13).astype(np.float32)) / 10_000
    labels = torch.from_numpy(read_images(folder / f"{name}.segm.png" for name in names))
    poses = np.stack([np.loadtxt(folder / f"{name}.pose.txt") for name in names])
    camera = camera_of(folder / "camera-intrinsics.color.txt", depth.shape[1:])
    return camera, depth, labels, RigidTransform.from_matrix(torch.from_numpy(poses).float())


@pytest.mark.parametrize(("inverted", "low", "high"), [(False, 0.0, 0.01), (True, 0.02, 10.0)])
def test_a_walks_frames_reproject_into_their_neighbours(inverted, low, high):
    camera, depth, world_from_cam = walk()
    if inverted:
        world_from_cam = world_from_cam.inverse()
    medians = []
    for here, there in zip(range(31), range(1, 32), strict=True):
        _, expected, observed, valid = reproject_depth(
            depth[there],
            depth[here],
            source_camera=camera,
            target_camera=camera,
            source_from_target=world_from_cam[there].inverse() @ world_from_cam[here],
        )
        medians.append((expected - observed).abs()[valid].median())
    assert low < min(medians)
    assert max(medians) < high


@pytest.mark.parametrize("wrong", ["nothing", "poses", "depth"])
def test_a_shelfs_pixels_keep_their_labels_in_the_next_view(wrong):
    camera, depth, labels, world_from_cam = shelf()
    if wrong == "poses":
        world_from_cam = world_from_cam.inverse()
    if wrong == "depth":
        depth = depth / 2
    one_hot = torch.stack([labels == label for label in LABELS], dim=1).float()
    seen, kept, labelled = 0, 0, 0
    for here, there in zip(range(7), range(1, 8), strict=True):
        next_labels, valid = warp_image(
            one_hot[there],
            depth[there],
            depth[here],
            source_camera=camera,
            target_camera=camera,
            source_from_target=world_from_cam[there].inverse() @ world_from_cam[here],
        )
        objects = one_hot[here].any(dim=0)
        agrees = (next_labels * one_hot[here]).sum(dim=0) > 0.5
        labelled += (objects & (depth[here] > 0)).sum()
        seen += (objects & valid).sum()
        kept += (objects & valid & agrees).sum()
    if wrong == "nothing":
        # The others are hidden, or land beside pixels that the sensor left empty.
        assert seen > 0.2 * labelled
        assert kept > 0.9 * seen
    else:
        assert kept < 0.05 * labelled
