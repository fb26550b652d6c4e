// Move ragged sweeps of points; reference.py says what is computed. One thread is one point.
//
// entry point: accumulate<float>
// entry point: accumulate<double>
// entry point: accumulate_backward<float>
// entry point: accumulate_backward<double>

typedef long long Index;

const int UNKNOWN = -2;
const int THREADS = 256;

template <typename T>
struct Point {
    T x, y, z;
};

template <typename T>
__device__ Point<T> move(const T* m, Point<T> p) {
    return {m[0] * p.x + m[1] * p.y + m[2] * p.z + m[3],
            m[4] * p.x + m[5] * p.y + m[6] * p.z + m[7],
            m[8] * p.x + m[9] * p.y + m[10] * p.z + m[11]};
}

// The last sweep that begins at or before a point, -1 for none.
__device__ Index sweep_at(const Index* offsets, Index bounds, Index point) {
    Index low = 0, high = bounds;
    while (low < high) {
        Index middle = (low + high) / 2;
        if (offsets[middle] <= point) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low - 1 < bounds - 1 ? low - 1 : -1;
}

// NaN, where a box is not there, holds nothing.
template <typename T>
__device__ Index first_box(const T* into, const T* half, Index boxes, Point<T> p) {
    for (Index box = 0; box < boxes; ++box, into += 12, half += 3) {
        Point<T> at = move(into, p);
        if (fabs(at.x) <= half[0] && fabs(at.y) <= half[1] && fabs(at.z) <= half[2]) return box;
    }
    return -1;
}

template <typename T>
__global__ void accumulate(
    const T* points, Index stride, const Index* offsets, const int* asked,
    const T* target_from_sensor, const T* box_from_sensor, const T* half_size,
    const T* target_by_box, const T* seconds_of_sweep, T* out, T* seconds, int* sweeps, int* boxes,
    Index count, Index sweep_count, Index box_count) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    Point<T> p = {points[n * stride], points[n * stride + 1], points[n * stride + 2]};
    Index sweep = sweep_at(offsets, sweep_count + 1, n), box = UNKNOWN;
    Point<T> moved = {T(0), T(0), T(0)};
    if (sweep >= 0) {
        Index row = sweep * box_count;
        box = asked != nullptr ? Index(asked[n])
                               : first_box(box_from_sensor + 12 * row, half_size, box_count, p);
        if (box < -1 || box >= box_count) box = UNKNOWN;
        if (box != UNKNOWN) {
            moved = move(
                box < 0 ? target_from_sensor + 12 * sweep : target_by_box + 12 * (row + box), p);
            if (!isfinite(moved.x) || !isfinite(moved.y) || !isfinite(moved.z)) {
                moved = {T(0), T(0), T(0)};
                box = UNKNOWN;
            }
        }
    }
    out[3 * n] = moved.x;
    out[3 * n + 1] = moved.y;
    out[3 * n + 2] = moved.z;
    seconds[n] = sweep < 0 ? T(0) : seconds_of_sweep[sweep];
    sweeps[n] = int(sweep);
    boxes[n] = int(box);
}

// The sum over a block, for its first thread.
template <typename T>
__device__ T block_sum(T value, T* shared) {
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_down_sync(~0u, value, apart);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = T(0);
    if (threadIdx.x == 0)
        for (int warp = 0; warp < int(blockDim.x) / 32; ++warp) sum += shared[warp];
    return sum;
}

template <typename T>
__global__ void accumulate_backward(
    const T* grad, const T* points, const int* sweeps, const int* boxes,
    const T* target_from_sensor, const T* target_by_box, T* by_points, T* by_sweep, T* by_box,
    Index count, Index box_count) {
    __shared__ T shared[THREADS / 32];
    Index start = Index(blockIdx.x) * blockDim.x, n = start + threadIdx.x;
    bool exists = n < count;
    int box = exists ? boxes[n] : UNKNOWN, sweep = exists ? sweeps[n] : -1;
    bool known = box != UNKNOWN;
    T g[3] = {}, p[4] = {};
    if (known) {
        for (int k = 0; k < 3; ++k) {
            g[k] = grad[3 * n + k];
            p[k] = points[3 * n + k];
        }
        p[3] = T(1);
        Index row = Index(sweep) * box_count + box;
        const T* m = box < 0 ? target_from_sensor + 12 * Index(sweep) : target_by_box + 12 * row;
        for (int k = 0; k < 3; ++k)
            by_points[3 * n + k] = m[k] * g[0] + m[4 + k] * g[1] + m[8 + k] * g[2];
    } else if (exists) {
        for (int k = 0; k < 3; ++k) by_points[3 * n + k] = T(0);
    }
    // Nearly every block lies in one sweep: then its points at rest are one sum.
    Index end = start + blockDim.x < count ? start + blockDim.x : count;
    bool alone = sweeps[start] >= 0 && sweeps[start] == sweeps[end - 1];
    bool at_rest = known && box < 0;
    for (int i = 0; i < 12; ++i) {
        T share = g[i / 4] * p[i % 4];
        if (alone) {
            T sum = block_sum(at_rest ? share : T(0), shared);
            if (threadIdx.x == 0) atomicAdd(by_sweep + 12 * Index(sweeps[start]) + i, sum);
        } else if (at_rest) {
            atomicAdd(by_sweep + 12 * Index(sweep) + i, share);
        }
        if (known && box >= 0)
            atomicAdd(by_box + 12 * (Index(sweep) * box_count + box) + i, share);
    }
}
