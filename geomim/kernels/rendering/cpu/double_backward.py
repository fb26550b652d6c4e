"""Second derivatives of rendering from alpha, as a numba loop.

``render_alpha_backward`` is linear in its gradients, so the inner product of what it returns with
``along`` is the change of the loss when alphas, distances and values move along ``along``. Here
that inner product Q is differentiated. With T the light in front of a sample and w its weight, a
dot for how they move, g for the gain of a weight and B for that behind the sample:

    w = T alpha,  dot w = dot T alpha + T dot alpha,  Q = sum(dot w g + w dot g) + by_T dot T_end

and one pass to the front collects the adjoints of dot T (which is B) and of T.
"""

from numba import prange

from geomim.kernels.compile import kernel, kernel_inline
from geomim.kernels.rendering.cpu.forward import span


@kernel_inline
def _dot(values, row, by_rendered):
    total = by_rendered.dtype.type(0)
    for c in range(by_rendered.shape[0]):
        total += values[row + c] * by_rendered[c]
    return total


@kernel_inline
def _to_the_back(ray, first, last, rows, alphas, distances, along, moving, moved, sums):
    """Fill in how the light in front of each sample and its weight move; add up what they carry."""
    opacity, transmittance, distance, rendered = sums
    values, values_along = rows
    one, light, light_moves = moving.dtype.type(1), moving.dtype.type(1), moving.dtype.type(0)
    channels = rendered.shape[1]
    for i in range(first, last):
        weight, weight_moves = light * alphas[i], light_moves * alphas[i] + light * along[0][i]
        moving[i], moved[i] = light_moves, weight_moves
        opacity[ray] += weight_moves
        distance[ray] += weight_moves * distances[i] + weight * along[1][i]
        for c in range(channels):
            k = i * channels + c
            rendered[ray, c] += weight_moves * values[k] + weight * values_along[k]
        light_moves = light_moves * (one - alphas[i]) - light * along[0][i]
        light *= one - alphas[i]
    transmittance[ray] = light_moves


@kernel
def render_alpha_double_backward(
    alphas,
    distances,
    values,
    offsets,
    count,
    weights,
    state,
    by_weights,
    grads,
    along,
    outs,
    sums,
):
    """Fill ``outs`` and ``sums``, which start at 0, with the gradients of Q.

    ``along`` is for alphas, distances, values; ``outs`` are by these and by the gradient of the
    weights, ``sums`` by the gradients of opacity, transmittance, distance and rendered values.
    """
    transmittance, known = state
    d_alphas, d_distances, d_values, moved = outs
    rays, channels = grads[3].shape
    rows = values.reshape(-1), along[2].reshape(-1)
    by_value, one = d_values.reshape(-1), weights.dtype.type(1)
    for ray in prange(rays):
        first, length = span(offsets, count, ray)
        last = first + (length if known[ray] else 0)
        by_opacity, by_distance, by_rendered = grads[0][ray], grads[2][ray], grads[3][ray]
        if last > first:
            # Until the way back, the gradient of the alphas keeps how the light moves.
            _to_the_back(ray, first, last, rows, alphas, distances, along, d_alphas, moved, sums)
        behind, adjoint_moving, adjoint = transmittance[ray], grads[1][ray], one - one
        for back in range(last - first):
            i = last - 1 - back
            gain = (
                by_opacity + by_distance * distances[i] + _dot(rows[0], i * channels, by_rendered)
            )
            if by_weights.shape[0] > 0:
                gain += by_weights[i]
            gain_moves = by_distance * along[1][i] + _dot(rows[1], i * channels, by_rendered)
            behind += weights[i]
            d_alphas[i] = d_alphas[i] * (gain - adjoint_moving) + behind * (gain_moves - adjoint)
            d_distances[i] = moved[i] * by_distance
            for c in range(channels):
                by_value[i * channels + c] = moved[i] * by_rendered[c]
            adjoint += alphas[i] * (gain_moves - adjoint)
            adjoint += along[0][i] * (gain - adjoint_moving)
            adjoint_moving += alphas[i] * (gain - adjoint_moving)
