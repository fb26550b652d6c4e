"""Take lens distortion out of all pixels of a surround-view image, beside OpenCV and kornia.

The size is that of one image of 256 x 704 pixels, in double precision. Before the clock starts what
comes out is distorted again and compared with what went in: ours must be within 1e-8 pixels, OpenCV
and kornia at forty iterations within 1e-5, which is as near as they come. Their defaults of five
iterations are shown for scale. OpenCV and kornia stop at the plane of depth 1; so does ours, and
once more with all that a camera answers, points in space and which of them are valid.
"""

from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np
import torch
from kornia.geometry.calibration import undistort_points
from torch import Tensor

from benchmarks.measure import Contender, Workload
from geomim.cameras import BrownConradyCamera
from geomim.cameras.distortion import opencv_coefficients, undistort_plane

LENSES = {
    "5 coefficients": (-0.28, 0.07, 2e-4, 1e-5, 0.01),
    "12 coefficients": (0.3, -0.1, 1e-3, -2e-3, 0.02, 0.5, -0.05, 0.01, 1e-3, -1e-3, 5e-4, 2e-4),
}
SIZE, TINY_SIZE = (256, 704), (6, 8)
OPENCV = "cv2, 40 iterations or 1e-10"
OURS, OURS_IN_SPACE = "geomim", "geomim, camera.unproject"
# In pixels, of the distortion of what comes out against what went in.
TOLERANCE = {OURS: 1e-8, OURS_IN_SPACE: 1e-8, OPENCV: 1e-5, "kornia, 40 iterations": 1e-5}


def workloads(*, tiny: bool) -> Iterator[Workload]:
    """Yield one workload a lens."""
    for name, coefficients in LENSES.items():
        camera = make_camera(coefficients, TINY_SIZE if tiny else SIZE)
        pixels = camera.pixel_grid().reshape(-1, 2)
        runs = contenders(camera, pixels)
        yield Workload(
            f"undistort {len(pixels)} px, {name}",
            tuple(Contender(contender, run) for contender, run in runs.items()),
            nbytes=2 * pixels.nbytes,
            dtype="float64",
            note="iterated to the end: "
            + ", ".join(f"{contender} to {error} px" for contender, error in TOLERANCE.items()),
            check=partial(check, camera, pixels, runs),
        )


def check(
    camera: BrownConradyCamera,
    pixels: Tensor,
    runs: dict[str, Callable[[], np.ndarray | Tensor]],
) -> None:
    """Refuse contenders that are not as near as they claim."""
    for contender, tolerance in TOLERANCE.items():
        error = worst_error(camera, pixels, runs[contender]())
        if not error < tolerance:
            raise AssertionError(f"{contender} is {error} pixels off")


def make_camera(coefficients: tuple[float, ...], size: tuple[int, int]) -> BrownConradyCamera:
    """Return a camera whose field of view is some 70 degrees, whatever its size."""
    height, width = size
    return BrownConradyCamera(
        torch.tensor([0.71 * width, 0.71 * width], dtype=torch.float64),
        torch.tensor([width / 2, height / 2], dtype=torch.float64),
        size,
        torch.tensor(coefficients, dtype=torch.float64),
    )


def contenders(
    camera: BrownConradyCamera, pixels: Tensor
) -> dict[str, Callable[[], np.ndarray | Tensor]]:
    """Return who computes the points at depth 1 that the pixels see, given what each needs."""
    depth = torch.ones(len(pixels), dtype=torch.float64)
    matrix, lens = camera.matrix(), camera.coefficients
    opencv_matrix = matrix.numpy().copy()
    opencv_matrix[:2, 2] -= 0.5
    opencv_pixels = pixels.numpy()[:, None] - 0.5

    def opencv(iterations: int, epsilon: float) -> Callable[[], np.ndarray]:
        kind = cv2.TERM_CRITERIA_COUNT | (cv2.TERM_CRITERIA_EPS if epsilon else 0)
        criteria = (kind, iterations, epsilon)
        return lambda: cv2.undistortPoints(
            opencv_pixels, opencv_matrix, lens.numpy(), criteria=criteria
        )[:, 0]

    def kornia(iterations: int) -> Callable[[], Tensor]:
        unit = torch.eye(3, dtype=torch.float64)[None]
        return lambda: undistort_points(
            pixels[None], matrix[None], lens[None], new_K=unit, num_iters=iterations
        )[0]

    return {
        OPENCV: opencv(40, 1e-10),
        OURS: lambda: (
            undistort_plane(
                (pixels - camera.principal_point) / camera.focal, opencv_coefficients(lens)
            ).plane
        ),
        OURS_IN_SPACE: lambda: camera.unproject(pixels, depth).points[:, :2],
        "kornia, 40 iterations": kornia(40),
        "cv2, 5 iterations": opencv(5, 0.0),
        "kornia, 5 iterations": kornia(5),
    }


def worst_error(camera: BrownConradyCamera, pixels: Tensor, points: np.ndarray | Tensor) -> float:
    """Return how far, in pixels, the points appear from the pixels that they came from."""
    plane = torch.as_tensor(points)
    projected = camera.project(torch.cat([plane, torch.ones_like(plane[:, :1])], dim=1))
    missed = (projected.pixels - pixels).abs().max().item()
    return missed if projected.valid.all() else float("inf")
