// Clip rays to boxes; reference.py says what is computed. One thread is one ray.
//
// entry point: clip_rays<float>
// entry point: clip_rays<double>
// entry point: clip_rays_backward<float>
// entry point: clip_rays_backward<double>

typedef long long Index;

template <typename T>
__global__ void clip_rays(
    const T* origins, const T* directions, const T* lower, const T* upper, const bool* valid,
    T* first_out, T* last_out, bool* valid_out, Index* entry_axis_out, Index* leave_axis_out,
    double near, double far, double tiny, Index step, Index count) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    T entry = T(-1) / T(0), leave = T(1) / T(0);
    Index entry_axis = -1, leave_axis = -1;
    bool known = valid[n];
    for (int k = 0; k < 3; ++k) {
        T o = origins[3 * n + k], d = directions[3 * n + k];
        T low = lower[3 * n * step + k], high = upper[3 * n * step + k];
        known = known && isfinite(o) && isfinite(d);
        if (fabs(d) >= T(tiny)) {
            T t = ((d > T(0) ? low : high) - o) / d, u = ((d > T(0) ? high : low) - o) / d;
            if (t > entry) { entry = t; entry_axis = k; }
            if (u < leave) { leave = u; leave_axis = k; }
            known = known && !isnan(t) && !isnan(u);
        } else {
            known = known && low <= o && o <= high;
        }
    }
    T first = entry > T(near) ? entry : T(near), last = leave < T(far) ? leave : T(far);
    known = known && first <= last && isfinite(first) && isfinite(last);
    first_out[n] = known ? first : T(0);
    last_out[n] = known ? last : T(0);
    valid_out[n] = known;
    entry_axis_out[n] = known && entry >= T(near) ? entry_axis : -1;
    leave_axis_out[n] = known && leave <= T(far) ? leave_axis : -1;
}

template <typename T>
__global__ void clip_rays_backward(
    const T* grad_first, const T* grad_last, const T* origins, const T* directions,
    const T* lower, const T* upper, const Index* entry_axis, const Index* leave_axis, T* by_origin,
    T* by_direction, T* by_lower, T* by_upper, Index step, Index count) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    for (int leaving = 0; leaving < 2; ++leaving) {
        Index k = leaving ? leave_axis[n] : entry_axis[n];
        if (k < 0) continue;
        Index at = 3 * n + k, corner = 3 * n * step + k;
        T o = origins[at], d = directions[at];
        bool at_low = (d > T(0)) != (leaving > 0);
        T face = at_low ? lower[corner] : upper[corner];
        T share = (leaving ? grad_last[n] : grad_first[n]) / d;
        by_origin[at] -= share;
        by_direction[at] -= share * ((face - o) / d);
        (at_low ? by_lower : by_upper)[at] += share;
    }
}
