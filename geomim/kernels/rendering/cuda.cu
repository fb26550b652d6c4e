// Rendering along rays, forward and backward; reference.py says what is computed.
//
// A block is (lanes, rays): the lanes of a ray, a power of two within a warp, take its samples in
// turns and scan over each other. Values are stored as T, all else is R, in which all is summed.
// The second derivatives, which are rarely asked for, take a thread a ray.
//
// entry point: render<float, float, true>
// entry point: render<double, double, true>
// entry point: render<__half, float, true>
// entry point: render<__nv_bfloat16, float, true>
// entry point: render<float, float, false>
// entry point: render<double, double, false>
// entry point: render<__half, float, false>
// entry point: render<__nv_bfloat16, float, false>
// entry point: render_backward<float, float, true>
// entry point: render_backward<double, double, true>
// entry point: render_backward<__half, float, true>
// entry point: render_backward<__nv_bfloat16, float, true>
// entry point: render_backward<float, float, false>
// entry point: render_backward<double, double, false>
// entry point: render_backward<__half, float, false>
// entry point: render_backward<__nv_bfloat16, float, false>
// entry point: render_alpha_double_backward<float>
// entry point: render_alpha_double_backward<double>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long Index;

// As many channels as this a lane sums by itself, sample by sample; more, the lanes share out.
constexpr int FEW = 4;

struct Span {
    Index first, last;
};

__device__ Span span_of(const Index* offsets, Index ray, Index count, Index samples) {
    if (offsets == nullptr) return {ray * count, (ray + 1) * count};
    Index first = min(max(offsets[ray], Index(0)), samples);
    return {first, min(max(offsets[ray + 1], first), samples)};
}

struct Lanes {
    unsigned mask;
    int lane, width;
};

__device__ Lanes lanes_of_ray() {
    int width = blockDim.x;
    int first = (threadIdx.y * width) & 31;
    unsigned ones = width == 32 ? 0xffffffffu : (1u << width) - 1u;
    return {ones << first, int(threadIdx.x), width};
}

template <typename R>
__device__ R sum(Lanes g, R x) {
    for (int apart = g.width / 2; apart > 0; apart /= 2)
        x += __shfl_xor_sync(g.mask, x, apart, g.width);
    return x;
}

// Return carry plus x of all lanes in front, and let carry go on behind them. By a shift: the
// difference of two sums would be NaN where they are infinite.
template <typename R>
__device__ R sums_before(Lanes g, R x, R& carry) {
    for (int apart = 1; apart < g.width; apart *= 2) {
        R other = __shfl_up_sync(g.mask, x, apart, g.width);
        if (g.lane >= apart) x += other;
    }
    R before = __shfl_up_sync(g.mask, x, 1, g.width);
    R result = g.lane == 0 ? carry : carry + before;
    carry += __shfl_sync(g.mask, x, g.width - 1, g.width);
    return result;
}

template <typename R>
__device__ R products_before(Lanes g, R x, R& carry) {
    for (int apart = 1; apart < g.width; apart *= 2) {
        R other = __shfl_up_sync(g.mask, x, apart, g.width);
        if (g.lane >= apart) x *= other;
    }
    R before = __shfl_up_sync(g.mask, x, 1, g.width);
    R result = g.lane == 0 ? carry : carry * before;
    carry *= __shfl_sync(g.mask, x, g.width - 1, g.width);
    return result;
}

// Take carry through "x + y * carry" of all lanes in front, in turn.
template <typename R>
__device__ R mixtures_before(Lanes g, R x, R y, R& carry) {
    for (int apart = 1; apart < g.width; apart *= 2) {
        R other_x = __shfl_up_sync(g.mask, x, apart, g.width);
        R other_y = __shfl_up_sync(g.mask, y, apart, g.width);
        if (g.lane >= apart) {
            x += y * other_x;
            y *= other_y;
        }
    }
    R before_x = __shfl_up_sync(g.mask, x, 1, g.width);
    R before_y = __shfl_up_sync(g.mask, y, 1, g.width);
    R result = g.lane == 0 ? carry : before_x + before_y * carry;
    R last_x = __shfl_sync(g.mask, x, g.width - 1, g.width);
    R last_y = __shfl_sync(g.mask, y, g.width - 1, g.width);
    carry = last_x + last_y * carry;
    return result;
}

template <typename R>
struct Sample {
    bool present;
    R own;  // optical depth or alpha
    R middle;
    R length;
};

// Look at a sample; one that is not there neither takes nor gives light.
template <bool DENSITY, typename R>
__device__ Sample<R> look(
    bool inside, Index i, const R* x, const R* starts, const R* ends, const bool* valid) {
    Sample<R> sample = {inside && (valid == nullptr || valid[i]), R(0), R(0), R(0)};
    if (!sample.present) return sample;
    if (DENSITY) {
        sample.length = ends[i] - starts[i];
        // However dense, nothing is in nothing; however long, where nothing is.
        bool nothing = x[i] == R(0) || sample.length == R(0);
        sample.own = nothing ? R(0) : x[i] * sample.length;
        sample.middle = R(0.5) * (starts[i] + ends[i]);
    } else {
        sample.own = x[i];
        sample.middle = starts[i];
    }
    return sample;
}

// Sum weights times values, the lanes having a channel each, and tell whether all are finite.
template <typename T, typename R>
__device__ bool mix(
    Lanes g, Span span, const R* weights, const T* values, const bool* valid, Index channels,
    R* rendered) {
    __syncwarp(g.mask);
    bool finite = true;
    for (Index c = g.lane; c < channels; c += g.width) {
        R total = R(0);
        for (Index i = span.first; i < span.last; ++i)
            if (valid == nullptr || valid[i]) total += weights[i] * R(values[i * channels + c]);
        rendered[c] = total;
        finite = finite && isfinite(total);
    }
    return __all_sync(g.mask, finite);
}

template <typename T>
__device__ void clear(Lanes g, T* out, Index first, Index last) {
    if (out == nullptr) return;
    for (Index i = first + g.lane; i < last; i += g.width) out[i] = T(0.0f);
}

template <typename T, typename R, bool DENSITY>
__global__ void render(
    const R* x, const R* starts, const R* ends, const T* values, const bool* valid,
    const Index* offsets, R* weights, R* opacity, R* transmittance, R* distance, R* rendered,
    bool* known, Index rays, Index samples, Index count, Index channels) {
    Index ray = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (ray >= rays) return;
    Lanes g = lanes_of_ray();
    Span span = span_of(offsets, ray, count, samples);
    R carry = DENSITY ? R(0) : R(1), total = R(0), moment = R(0), few[FEW] = {};
    for (Index start = span.first; start < span.last; start += g.width) {
        Index i = start + g.lane;
        Sample<R> s = look<DENSITY>(i < span.last, i, x, starts, ends, valid);
        R weight;
        if (DENSITY)
            weight = exp(-sums_before(g, s.own, carry)) * -expm1(-s.own);
        else
            weight = products_before(g, R(1) - s.own, carry) * s.own;
        if (i < span.last) weights[i] = weight;
        total += weight;
        moment += weight * s.middle;
#pragma unroll
        for (int c = 0; c < FEW; ++c)
            if (s.present && channels <= FEW && c < channels)
                few[c] += weight * R(values[i * channels + c]);
    }
    R left = DENSITY ? exp(-carry) : carry;
    total = sum(g, total);
    moment = sum(g, moment);
    bool finite = isfinite(left) && isfinite(total) && isfinite(moment);
    R* own = rendered + ray * channels;
    if (channels > FEW) finite = mix(g, span, weights, values, valid, channels, own) && finite;
#pragma unroll
    for (int c = 0; c < FEW; ++c) {
        R mixed = sum(g, few[c]);
        if (channels > FEW || c >= channels) continue;
        finite = finite && isfinite(mixed);
        if (g.lane == 0) own[c] = mixed;
    }
    if (g.lane == 0) {
        opacity[ray] = finite ? total : R(0);
        transmittance[ray] = finite ? left : R(0);
        distance[ray] = finite ? moment : R(0);
        known[ray] = finite;
    }
    if (finite) return;
    __syncwarp(g.mask);
    clear(g, weights, span.first, span.last);
    clear(g, own, 0, channels);
}

// Return what values add to the gain of this lane's sample, and fill in their gradient.
template <typename T, typename R>
__device__ R gain_by_values(
    Lanes g, Index i, Index low, bool present, R weight, const T* values, const R* by_rendered,
    T* d_values, Index channels) {
    R gain = R(0);
    if (channels <= FEW) {
        for (Index c = 0; i >= low && c < channels; ++c) {
            if (present) gain += by_rendered[c] * R(values[i * channels + c]);
            if (d_values != nullptr) d_values[i * channels + c] = T(weight * by_rendered[c]);
        }
        return gain;
    }
    for (int turn = 0; turn < g.width; ++turn) {
        Index k = i + g.lane - turn;
        if (k < low) break;
        bool there = __shfl_sync(g.mask, int(present), turn, g.width) != 0;
        R share = __shfl_sync(g.mask, weight, turn, g.width);
        R part = R(0);
        for (Index c = g.lane; c < channels; c += g.width) {
            if (there) part += by_rendered[c] * R(values[k * channels + c]);
            if (d_values != nullptr) d_values[k * channels + c] = T(share * by_rendered[c]);
        }
        part = sum(g, part);
        if (g.lane == turn) gain = part;
    }
    return gain;
}

template <typename T, typename R, bool DENSITY>
__global__ void render_backward(
    const R* x, const R* starts, const R* ends, const T* values, const bool* valid,
    const Index* offsets, const R* weights, const R* transmittance, const bool* known,
    const R* by_weights, const R* by_opacity, const R* by_transmittance, const R* by_distance,
    const R* by_rendered, R* d_x, R* d_starts, R* d_ends, T* d_values, Index rays, Index samples,
    Index count, Index channels) {
    Index ray = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (ray >= rays) return;
    Lanes g = lanes_of_ray();
    Span span = span_of(offsets, ray, count, samples);
    if (!known[ray]) {
        clear(g, d_x, span.first, span.last);
        clear(g, d_starts, span.first, span.last);
        clear(g, d_ends, span.first, span.last);
        clear(g, d_values, span.first * channels, span.last * channels);
        return;
    }
    R slope = by_distance[ray], behind = transmittance[ray];
    R later_behind = by_transmittance[ray] * (DENSITY ? behind : R(1));
    // From the last sample to the first: what is behind a sample is in the lanes in front.
    for (Index start = span.last - 1; start >= span.first; start -= g.width) {
        Index i = start - g.lane;
        bool inside = i >= span.first;
        Sample<R> s = look<DENSITY>(inside, i, x, starts, ends, valid);
        R weight = s.present ? weights[i] : R(0);
        R gain = gain_by_values(
            g, i, span.first, s.present, weight, values, by_rendered + ray * channels, d_values,
            channels);
        if (s.present) {
            gain += by_opacity[ray] + slope * s.middle;
            if (by_weights != nullptr) gain += by_weights[i];
        }
        R light = sums_before(g, weight, behind);
        if (DENSITY) {
            R change = gain * light - sums_before(g, gain * weight, later_behind);
            if (!inside) continue;
            d_x[i] = s.present ? change * s.length : R(0);
            if (d_starts == nullptr) continue;
            R move = R(0.5) * slope * weight;
            R stretch = s.present && isfinite(x[i]) ? change * x[i] : R(0);
            d_starts[i] = move - stretch;
            d_ends[i] = move + stretch;
        } else {
            R later = mixtures_before(g, gain * s.own, R(1) - s.own, later_behind);
            if (!inside) continue;
            d_x[i] = s.present ? (weight + light) * (gain - later) : R(0);
            if (d_starts != nullptr) d_starts[i] = slope * weight;
        }
    }
}

template <typename R>
__device__ R dot(const R* x, const R* y, Index channels) {
    R total = R(0);
    for (Index c = 0; c < channels; ++c) total += x[c] * y[c];
    return total;
}

// The outputs start at 0. The names are those of cpu/double_backward.py, which says what is done.
template <typename R>
__global__ void render_alpha_double_backward(
    const R* alphas, const R* distances, const R* values, const bool* valid, const Index* offsets,
    const R* weights, const R* transmittance, const bool* known, const R* by_weights,
    const R* by_opacity, const R* by_transmittance, const R* by_distance, const R* by_rendered,
    const R* alphas_along, const R* distances_along, const R* values_along, R* d_alphas,
    R* d_distances, R* d_values, R* moved, R* opacity, R* d_transmittance, R* distance, R* rendered,
    Index rays, Index samples, Index count, Index channels) {
    Index ray = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (ray >= rays || !known[ray]) return;
    Span span = span_of(offsets, ray, count, samples);
    const R* by_row = by_rendered + ray * channels;
    R light = R(1), light_moves = R(0), total = R(0), moment = R(0);
    for (Index i = span.first; i < span.last; ++i) {
        if (valid != nullptr && !valid[i]) continue;
        R weight = light * alphas[i];
        moved[i] = light_moves * alphas[i] + light * alphas_along[i];
        d_alphas[i] = light_moves;
        total += moved[i];
        moment += moved[i] * distances[i] + weight * distances_along[i];
        for (Index c = 0; c < channels; ++c) {
            Index k = i * channels + c;
            rendered[ray * channels + c] += moved[i] * values[k] + weight * values_along[k];
        }
        light_moves = light_moves * (R(1) - alphas[i]) - light * alphas_along[i];
        light *= R(1) - alphas[i];
    }
    opacity[ray] = total;
    distance[ray] = moment;
    d_transmittance[ray] = light_moves;
    R behind = transmittance[ray], adjoint_moving = by_transmittance[ray], adjoint = R(0);
    for (Index i = span.last - 1; i >= span.first; --i) {
        if (valid != nullptr && !valid[i]) continue;
        R gain = by_opacity[ray] + by_distance[ray] * distances[i];
        gain += dot(values + i * channels, by_row, channels);
        if (by_weights != nullptr) gain += by_weights[i];
        R gain_moves = by_distance[ray] * distances_along[i];
        gain_moves += dot(values_along + i * channels, by_row, channels);
        behind += weights[i];
        d_alphas[i] = d_alphas[i] * (gain - adjoint_moving) + behind * (gain_moves - adjoint);
        d_distances[i] = moved[i] * by_distance[ray];
        for (Index c = 0; c < channels; ++c) d_values[i * channels + c] = moved[i] * by_row[c];
        adjoint += alphas[i] * (gain_moves - adjoint) + alphas_along[i] * (gain - adjoint_moving);
        adjoint_moving += alphas[i] * (gain - adjoint_moving);
    }
}
