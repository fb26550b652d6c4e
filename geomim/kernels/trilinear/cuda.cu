// Trilinear gather, scatter and dots over channels-last volumes; reference.py says what is computed.
//
// Values are stored as T, loaded WIDTH at a time and summed as R. A block is (lanes, points): the
// lanes of a point share its channels, so that a row of the volume is one coalesced access.
//
// entry point: gather<float, float, 1>
// entry point: gather<float, float, 4>
// entry point: gather<double, double, 1>
// entry point: gather<double, double, 2>
// entry point: gather<__half, float, 1>
// entry point: gather<__half, float, 4>
// entry point: gather<__nv_bfloat16, float, 1>
// entry point: gather<__nv_bfloat16, float, 4>
// entry point: scatter<float, float, 1>
// entry point: scatter<float, float, 4>
// entry point: scatter<double, double, 1>
// entry point: scatter<double, double, 2>
// entry point: scatter<__half, float, 1>
// entry point: scatter<__half, float, 4>
// entry point: scatter<__nv_bfloat16, float, 1>
// entry point: scatter<__nv_bfloat16, float, 4>
// entry point: dots<float, float, 1>
// entry point: dots<float, float, 4>
// entry point: dots<double, double, 1>
// entry point: dots<double, double, 2>
// entry point: dots<__half, float, 1>
// entry point: dots<__half, float, 4>
// entry point: dots<__nv_bfloat16, float, 1>
// entry point: dots<__nv_bfloat16, float, 4>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long Index;

template <typename T, int WIDTH>
struct alignas(sizeof(T) * WIDTH) Pack {
    T value[WIDTH];
};

template <typename T, typename R, int WIDTH>
__device__ void load(const T* from, R (&into)[WIDTH]) {
    Pack<T, WIDTH> pack = *reinterpret_cast<const Pack<T, WIDTH>*>(from);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) into[i] = R(pack.value[i]);
}

template <typename R>
struct Axis {
    Index cell[2];  // -1: no such cell
    R weight[2];
    R slope[2];
};

// Tell whether any cell has a say at an index coordinate; NaN compares false.
template <typename R>
__device__ bool supported(R p, Index size, bool border) {
    if (border) return isfinite(p);
    return p > R(-0.5) && p < R(size) + R(0.5);
}

template <typename R>
__device__ Axis<R> along(R p, Index size, bool border) {
    R q = p - R(0.5);
    q = q < R(-1) ? R(-1) : (q > R(size) ? R(size) : q);
    Index low = Index(q + R(1)) - 1;
    R t = q - R(low);
    Axis<R> axis = {{low, low + 1}, {R(1) - t, t}, {R(-1), R(1)}};
    for (int i = 0; i < 2; ++i) {
        bool exists = axis.cell[i] >= 0 && axis.cell[i] < size;
        if (!exists) axis.cell[i] = !border ? -1 : (axis.cell[i] < 0 ? 0 : size - 1);
    }
    return axis;
}

template <typename R>
struct Corners {
    bool known;
    Axis<R> x, y, z;
    Index cell[8];  // x fastest; -1: no such cell
};

template <typename R>
__device__ Corners<R> locate(
    const R* point, Index item, Index size_z, Index size_y, Index size_x, bool border) {
    Corners<R> corners;
    corners.known = supported(point[0], size_x, border) && supported(point[1], size_y, border) &&
                    supported(point[2], size_z, border);
    for (int i = 0; i < 8; ++i) corners.cell[i] = -1;
    if (!corners.known) return corners;
    corners.x = along(point[0], size_x, border);
    corners.y = along(point[1], size_y, border);
    corners.z = along(point[2], size_z, border);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        Index x = corners.x.cell[i & 1], y = corners.y.cell[i >> 1 & 1], z = corners.z.cell[i >> 2];
        if (x >= 0 && y >= 0 && z >= 0)
            corners.cell[i] = ((item * size_z + z) * size_y + y) * size_x + x;
    }
    return corners;
}

// The weight of every corner in a combination of the value's derivatives; null is the value alone.
template <typename R>
__device__ void weigh(const R* mix, const Corners<R>& corners, R (&weight)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        R x = corners.x.weight[i & 1], dx = corners.x.slope[i & 1];
        R y = corners.y.weight[i >> 1 & 1], dy = corners.y.slope[i >> 1 & 1];
        R z = corners.z.weight[i >> 2], dz = corners.z.slope[i >> 2];
        if (mix == nullptr) {
            weight[i] = x * y * z;
        } else {
            R plain = (mix[0] * x + mix[1] * dx) * y + (mix[2] * x + mix[6] * dx) * dy;
            R with_z = (mix[3] * x + mix[5] * dx) * y + (mix[4] * x + mix[7] * dx) * dy;
            weight[i] = plain * z + with_z * dz;
        }
    }
}

__device__ const float* coefficients(const float* mix, Index start) {
    return mix == nullptr ? nullptr : mix + start;
}
__device__ const double* coefficients(const double* mix, Index start) {
    return mix == nullptr ? nullptr : mix + start;
}

template <typename T, typename R, int WIDTH>
__global__ void gather(
    const T* volume, const R* points, const R* mix, T* out, bool* known, Index batch, Index count,
    Index kinds, Index channels, Index size_z, Index size_y, Index size_x, Index mix_per_item,
    Index mix_per_point, Index border) {
    Index n = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (n >= batch * count) return;
    Index item = n / count;
    Corners<R> corners = locate(points + 3 * n, item, size_z, size_y, size_x, border != 0);
    if (threadIdx.x == 0) known[n] = corners.known;
    for (Index k = 0; k < kinds; ++k) {
        R weight[8];
        Index start = item * mix_per_item + (n - item * count) * mix_per_point + 8 * k;
        if (corners.known) weigh(coefficients(mix, start), corners, weight);
        for (Index c = Index(threadIdx.x) * WIDTH; c < channels; c += Index(blockDim.x) * WIDTH) {
            R sum[WIDTH] = {};
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                if (corners.cell[i] < 0) continue;
                R row[WIDTH];
                load(volume + corners.cell[i] * channels + c, row);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sum[j] += weight[i] * row[j];
            }
            Pack<T, WIDTH> pack;
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) pack.value[j] = T(sum[j]);
            *reinterpret_cast<Pack<T, WIDTH>*>(out + (n * kinds + k) * channels + c) = pack;
        }
    }
}

template <typename R, int WIDTH>
__device__ void add(R* into, const R (&value)[WIDTH]) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) atomicAdd(into + j, value[j]);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
template <>
__device__ void add<float, 4>(float* into, const float (&value)[4]) {
    atomicAdd(
        reinterpret_cast<float4*>(into), make_float4(value[0], value[1], value[2], value[3]));
}
#endif

template <typename T, typename R, int WIDTH>
__global__ void scatter(
    const T* grad, const R* points, const R* mix, R* out, Index batch, Index count, Index kinds,
    Index channels, Index size_z, Index size_y, Index size_x, Index mix_per_item,
    Index mix_per_point, Index border) {
    Index n = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (n >= batch * count) return;
    Index item = n / count;
    Corners<R> corners = locate(points + 3 * n, item, size_z, size_y, size_x, border != 0);
    if (!corners.known) return;
    Index start = item * mix_per_item + (n - item * count) * mix_per_point;
    for (Index c = Index(threadIdx.x) * WIDTH; c < channels; c += Index(blockDim.x) * WIDTH) {
        R share[8][WIDTH] = {};
        for (Index k = 0; k < kinds; ++k) {
            R weight[8], row[WIDTH];
            weigh(coefficients(mix, start + 8 * k), corners, weight);
            load(grad + (n * kinds + k) * channels + c, row);
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) share[i][j] += weight[i] * row[j];
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (corners.cell[i] >= 0) add(out + corners.cell[i] * channels + c, share[i]);
    }
}

template <typename T, typename R, int WIDTH>
__global__ void dots(
    const T* volume, const R* points, const T* grad, R* out, Index batch, Index count, Index kinds,
    Index channels, Index size_z, Index size_y, Index size_x, Index border) {
    Index n = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    // Every lane of a warp takes part in the shuffles below, so none leaves early.
    bool exists = n < batch * count;
    Corners<R> corners;
    if (exists)
        corners = locate(points + 3 * n, n / count, size_z, size_y, size_x, border != 0);
    bool counts = exists && corners.known;
    for (Index k = 0; k < kinds; ++k) {
        R sum[8] = {};
        for (Index c = Index(threadIdx.x) * WIDTH; counts && c < channels;
             c += Index(blockDim.x) * WIDTH) {
            R factor[WIDTH];
            load(grad + (n * kinds + k) * channels + c, factor);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                if (corners.cell[i] < 0) continue;
                R row[WIDTH];
                load(volume + corners.cell[i] * channels + c, row);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sum[i] += factor[j] * row[j];
            }
        }
        for (int apart = blockDim.x / 2; apart > 0; apart /= 2)
#pragma unroll
            for (int i = 0; i < 8; ++i) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], apart);
        if (threadIdx.x != 0 || !exists) continue;
        // The derivatives 1, x, y, z, yz, xz, xy, xyz as bits: 1 is x, 2 is y, 4 is z.
        const int orders[8] = {0, 1, 2, 4, 6, 5, 3, 7};
#pragma unroll
        for (int m = 0; m < 8; ++m) {
            R total = R(0);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                if (!counts || corners.cell[i] < 0) continue;
                R x = orders[m] & 1 ? corners.x.slope[i & 1] : corners.x.weight[i & 1];
                R y = orders[m] & 2 ? corners.y.slope[i >> 1 & 1] : corners.y.weight[i >> 1 & 1];
                R z = orders[m] & 4 ? corners.z.slope[i >> 2] : corners.z.weight[i >> 2];
                total += x * y * z * sum[i];
            }
            out[(n * kinds + k) * 8 + m] = total;
        }
    }
}
