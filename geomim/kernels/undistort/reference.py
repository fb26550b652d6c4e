"""Define lens distortion of a plane and its inverse, in plain torch.

Thirteen coefficients, OpenCV's twelve in its order and one more: k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3
s4, and the factor of the eighth power, which Kannala and Brandt need. With ``s = x**2 + y**2``::

    radial = (1 + k1 s + k2 s**2 + k3 s**3 + k s**4) / (1 + k4 s + k5 s**2 + k6 s**3)
    x' = x radial + 2 p1 x y + p2 (s + 2 x**2) + s1 s + s2 s**2
    y' = y radial + p1 (s + 2 y**2) + 2 p2 x y + s3 s + s4 s**2

Lenses are modelled by it up to the radius at which ``r radial`` stops rising, their *reach*. A
point within it at which the whole map keeps its orientation is *regular*, and the distorted point
is told from all others that are near.
"""

import torch
from torch import Tensor

# A residual at which the solution is known; of focal length 1000 it is 1e-8 pixels.
TOLERANCE = 1e-11
NEWTON_STEPS = 10


def distort(points: Tensor, coefficients: Tensor) -> Tensor:
    """Return distorted points; the coefficients broadcast over the points."""
    return torch.stack(_distorted(points, coefficients), dim=-1)


def is_regular(points: Tensor, coefficients: Tensor, reach: Tensor) -> Tensor:
    """Tell which undistorted points lie within reach, where the map keeps its orientation."""
    a, b, c, d = _jacobian(points, coefficients)
    return (points.square().sum(dim=-1) < reach.square()) & (a * d - b * c > 0)


def distortion_reach(coefficients: Tensor) -> Tensor:
    """Return the radius at which ``r radial`` stops rising, infinity if it never does.

    The derivative of ``r radial`` is a polynomial in ``s`` over the squared denominator, and both
    are 1 at 0. The eigenvalues of the companion matrix are one over their roots.
    """
    numerator, denominator = _radial_polynomials(coefficients.double())
    power = torch.arange(5, dtype=torch.float64, device=coefficients.device)
    rising = _product(numerator * (1 + 2 * power), denominator)
    rising = rising - _product(numerator, denominator * (2 * power[:4]))
    inverse = torch.maximum(_largest_root(rising), _largest_root(denominator))
    return inverse.pow(-0.5).to(coefficients.dtype)


def undistort(distorted: Tensor, coefficients: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return the regular points that are distorted to the given ones, and where they are known.

    Args:
        distorted: Camera by point by 2.
        coefficients: Camera by 13.
        reach: One radius a camera, which may lie before that of :func:`distortion_reach`.

    Returns:
        Camera by point by 2, 0 where no regular point is known; and camera by point.
    """
    k, limit = coefficients[:, None].double(), reach[:, None].double()
    goal = distorted.double()
    with torch.no_grad():
        solution = _radial_solution(goal, k, limit)
        for _ in range(NEWTON_STEPS):
            solution = solution - _newton_step(solution, goal, k)
        missed = (distort(solution, k) - goal).square().sum(dim=-1)
        close = missed <= TOLERANCE**2 * (1 + goal.square().sum(dim=-1))
        known = close & is_regular(solution, k, limit)
    solution = torch.where(known[..., None], solution, 0.0)
    goal = torch.where(known[..., None], goal, distort(solution, k).detach())
    # At the solution, a step of Newton's adds an order of derivatives, and the next two more.
    for _ in range(2 if torch.is_grad_enabled() else 0):
        solution = solution - _newton_step(solution, goal, torch.where(known[..., None], k, 0.0))
    return torch.where(known[..., None], solution, 0.0).to(distorted.dtype), known


def undistort_backward(
    grad: Tensor, undistorted: Tensor, known: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``undistort`` by the implicit function theorem.

    With ``J`` the Jacobian of ``distort``, that of the distorted points is ``J^-T grad``; that of
    the coefficients is minus it, times their own derivative.
    """
    points = torch.where(known[..., None], undistorted, 0.0).double()
    k = torch.where(known[..., None], coefficients[:, None], 0.0).double()
    a, b, c, d = _jacobian(points, k)
    gx, gy = torch.where(known[..., None], grad, 0.0).double().unbind(dim=-1)
    determinant = a * d - b * c
    wx, wy = (d * gx - c * gy) / determinant, (a * gy - b * gx) / determinant
    for_coefficients = _weighted_derivatives(points, k, -wx, -wy).sum(dim=1)
    for_distorted = torch.stack([wx, wy], dim=-1)
    return for_distorted.to(grad.dtype), for_coefficients.to(coefficients.dtype)


def _radial(s: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the radial factor and its derivative with respect to the squared radius."""
    k1, k2, _, _, k3, k4, k5, k6, _, _, _, _, k = coefficients.unbind(dim=-1)
    inverse = 1 / (1 + s * (k4 + s * (k5 + s * k6)))
    factor = (1 + s * (k1 + s * (k2 + s * (k3 + s * k)))) * inverse
    slope = k1 + s * (2 * k2 + s * (3 * k3 + s * 4 * k))
    return factor, (slope - factor * (k4 + s * (2 * k5 + s * 3 * k6))) * inverse


def _distorted(points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    x, y = points.unbind(dim=-1)
    s = x * x + y * y
    _, _, p1, p2, _, _, _, _, s1, s2, s3, s4, _ = coefficients.unbind(dim=-1)
    factor, _ = _radial(s, coefficients)
    across = x * factor + 2 * p1 * x * y + p2 * (s + 2 * x * x) + s * (s1 + s2 * s)
    down = y * factor + p1 * (s + 2 * y * y) + 2 * p2 * x * y + s * (s3 + s4 * s)
    return across, down


def _jacobian(points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the derivatives of x' by x, of x' by y, of y' by x and of y' by y."""
    x, y = points.unbind(dim=-1)
    s = x * x + y * y
    _, _, p1, p2, _, _, _, _, s1, s2, s3, s4, _ = coefficients.unbind(dim=-1)
    factor, slope = _radial(s, coefficients)
    mixed = 2 * (slope * x * y + p1 * x + p2 * y)
    prism_x, prism_y = 2 * (s1 + 2 * s2 * s), 2 * (s3 + 2 * s4 * s)
    return (
        factor + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x + prism_x * x,
        mixed + prism_x * y,
        mixed + prism_y * x,
        factor + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x + prism_y * y,
    )


def _newton_step(points: Tensor, goal: Tensor, coefficients: Tensor) -> Tensor:
    rx, ry = (distort(points, coefficients) - goal).unbind(dim=-1)
    a, b, c, d = _jacobian(points, coefficients)
    determinant = a * d - b * c
    return torch.stack([(d * rx - b * ry) / determinant, (a * ry - c * rx) / determinant], dim=-1)


def _radial_solution(goal: Tensor, coefficients: Tensor, reach: Tensor) -> Tensor:
    """Bisect for the radius of each point as if there was radial distortion alone."""
    target = goal.square().sum(dim=-1).sqrt()
    high = torch.where(reach.isfinite(), reach, target)
    for _ in range(64):
        short = reach.isinf() & (high * _radial(high.square(), coefficients)[0] < target)
        high = torch.where(short, 2 * high, high)
    low = torch.zeros_like(high)
    for _ in range(64):
        middle = (low + high) / 2
        below = middle * _radial(middle.square(), coefficients)[0] < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    away = torch.where(target > 0, target, 1.0)
    return goal * (low / away)[..., None]


def _weighted_derivatives(points: Tensor, coefficients: Tensor, wx: Tensor, wy: Tensor) -> Tensor:
    """Return the derivatives of ``wx x' + wy y'`` with respect to the coefficients."""
    x, y = points.unbind(dim=-1)
    s = x * x + y * y
    k4, k5, k6 = coefficients[..., 5:8].unbind(dim=-1)
    factor, _ = _radial(s, coefficients)
    along = (wx * x + wy * y) / (1 + s * (k4 + s * (k5 + s * k6)))
    above, below = along * s, -factor * along * s
    return torch.stack(
        [
            above,
            above * s,
            wx * 2 * x * y + wy * (s + 2 * y * y),
            wx * (s + 2 * x * x) + wy * 2 * x * y,
            above * s * s,
            below,
            below * s,
            below * s * s,
            wx * s,
            wx * s * s,
            wy * s,
            wy * s * s,
            above * s * s * s,
        ],
        dim=-1,
    )


def _radial_polynomials(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator of the radial factor, lowest power of ``s`` first."""
    one = torch.ones_like(coefficients[..., :1])
    numerator = torch.cat([one, coefficients[..., [0, 1, 4, 12]]], dim=-1)
    return numerator, torch.cat([one, coefficients[..., 5:8]], dim=-1)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Multiply polynomials of degrees 4 and 3."""
    shifted = [
        torch.nn.functional.pad(first * second[..., power, None], (power, 3 - power))
        for power in range(4)
    ]
    return torch.stack(shifted).sum(dim=0)


def _largest_root(polynomial: Tensor) -> Tensor:
    """Return the largest positive root ``1 / s`` of polynomials in ``s`` that are 1 at 0, or 0."""
    degree = polynomial.shape[-1] - 1
    finite = polynomial.isfinite().all(dim=-1)
    tail = torch.where(finite[..., None], polynomial[..., 1:], 0.0)
    companion = torch.zeros(*tail.shape[:-1], degree, degree, dtype=tail.dtype, device=tail.device)
    companion[..., 0, :] = -tail
    companion.diagonal(-1, -2, -1).fill_(1.0)
    roots = torch.linalg.eigvals(companion)
    # A double root may come out as a pair beside the axis, at the square root of the precision.
    real = (roots.real > 0) & (roots.imag.abs() <= 1e-7 * roots.real)
    return torch.where(real, roots.real, 0.0).amax(dim=-1)
