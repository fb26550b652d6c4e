"""Loader workers run kernels, whatever their parent ran before."""

import multiprocessing

import pytest
import torch

from geomim.cameras import PinholeCamera
from geomim.depth import normals_from_depth, unproject_depth

CAMERA = PinholeCamera(torch.tensor([30.0, 30.0]), torch.tensor([20.0, 15.0]), (30, 40))
DEPTH = torch.rand(4, 30, 40, generator=torch.Generator().manual_seed(0)) + 1


def points_and_gradient():
    depth = DEPTH.clone().requires_grad_()
    points = unproject_depth(depth, CAMERA).points
    (points.square().sum() + normals_from_depth(depth, CAMERA).normals[..., 0].sum()).backward()
    return points.detach(), depth.grad


def worker(queue, threads):
    torch.set_num_threads(threads)
    queue.put([part.numpy() for part in points_and_gradient()])


@pytest.fixture
def parallel_parent():
    """Run parallel kernels, torch's and ours, before any worker starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.rand(1000, 1000) @ torch.rand(1000, 1000)
    yield points_and_gradient()
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("method", "threads"), [("fork", 1), ("fork", 2), ("spawn", 2)])
def test_workers_run_kernels_after_their_parent_did(parallel_parent, method, threads):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=worker, args=(queue, threads))
    child.start()
    points, gradient = queue.get(timeout=120)
    child.join(timeout=120)
    assert child.exitcode == 0
    torch.testing.assert_close(
        (torch.from_numpy(points), torch.from_numpy(gradient)), parallel_parent
    )


class Unprojected(torch.utils.data.Dataset):
    def __len__(self):
        return len(DEPTH)

    def __getitem__(self, index):
        return unproject_depth(DEPTH[index], CAMERA).points


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_loaders_workers_run_kernels_after_their_parent_did(parallel_parent, method):
    loader = torch.utils.data.DataLoader(
        Unprojected(), num_workers=2, multiprocessing_context=method, timeout=120
    )
    torch.testing.assert_close(torch.cat(list(loader)), parallel_parent[0])
