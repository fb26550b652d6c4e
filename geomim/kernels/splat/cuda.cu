// Project and splat points; reference.py says what is computed. One thread is one point of one image.
//
// entry point: project_pinhole<float>
// entry point: project_pinhole<double>
// entry point: project_pinhole_backward<float>
// entry point: project_pinhole_backward<double>
// entry point: splat_keys
// entry point: read_keys
// entry point: splat_depths
// entry point: splat_indices
// entry point: read_depths

typedef long long Index;
typedef unsigned long long Key;

const int THREADS = 256;
const Key EMPTY = ~0ULL;

template <typename T>
struct Point {
    T x, y, z;
};

template <typename T>
__device__ Point<T> move(const T* m, const T* p) {
    return {m[0] * p[0] + m[1] * p[1] + m[2] * p[2] + m[3],
            m[4] * p[0] + m[5] * p[1] + m[6] * p[2] + m[7],
            m[8] * p[0] + m[9] * p[1] + m[10] * p[2] + m[11]};
}

template <typename T>
__global__ void project_pinhole(
    const T* points, const T* cam_from_points, const T* focal, const T* principal_point, T* pixels,
    T* depth, bool* valid, Index cameras, Index count, Index shared, Index height, Index width,
    double near, double margin) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= cameras * count) return;
    Index camera = n / count, item = shared ? n - camera * count : n;
    Point<T> at = move(cam_from_points + 12 * camera, points + 3 * item);
    T u = focal[2 * camera] * (at.x / at.z) + principal_point[2 * camera];
    T v = focal[2 * camera + 1] * (at.y / at.z) + principal_point[2 * camera + 1];
    T low = T(-margin), right = T(width) + T(margin), bottom = T(height) + T(margin);
    // NaN compares false; an infinite depth would put every point at the centre.
    bool sees = at.z > T(near) && isfinite(at.z) && u >= low && u <= right && v >= low &&
                v <= bottom;
    pixels[2 * n] = sees ? u : T(0);
    pixels[2 * n + 1] = sees ? v : T(0);
    depth[n] = sees ? at.z : T(0);
    valid[n] = sees;
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

// A block looks through one camera, which is blockIdx.x modulo their number.
template <typename T>
__global__ void project_pinhole_backward(
    const T* grad_pixels, const T* grad_depth, const bool* valid, const T* points,
    const T* cam_from_points, const T* focal, T* by_points, T* by_matrix, T* by_focal,
    T* by_centre, Index cameras, Index count, Index shared) {
    __shared__ T sums[THREADS / 32];
    Index camera = Index(blockIdx.x) % cameras;
    Index place = Index(blockIdx.x) / cameras * blockDim.x + threadIdx.x;
    Index n = camera * count + place;
    bool sees = place < count && valid[n];
    T part[16] = {};
    if (sees) {
        const T* m = cam_from_points + 12 * camera;
        Index item = shared ? place : n;
        const T* p = points + 3 * item;
        Point<T> at = move(m, p);
        T gu = grad_pixels[2 * n], gv = grad_pixels[2 * n + 1];
        T gx = gu * focal[2 * camera] / at.z, gy = gv * focal[2 * camera + 1] / at.z;
        T g[3] = {gx, gy, grad_depth[n] - (gx * at.x + gy * at.y) / at.z};
        for (int k = 0; k < 3; ++k) {
            T share = m[k] * g[0] + m[4 + k] * g[1] + m[8 + k] * g[2];
            if (shared) {
                atomicAdd(by_points + 3 * item + k, share);
            } else {
                by_points[3 * item + k] = share;
            }
        }
        for (int i = 0; i < 12; ++i) part[i] = g[i / 4] * (i % 4 < 3 ? p[i % 4] : T(1));
        part[12] = gu * (at.x / at.z);
        part[13] = gv * (at.y / at.z);
        part[14] = gu;
        part[15] = gv;
    }
    for (int i = 0; i < 16; ++i) {
        T sum = block_sum(part[i], sums);
        if (threadIdx.x != 0 || sum == T(0)) continue;
        if (i < 12) atomicAdd(by_matrix + 12 * camera + i, sum);
        else if (i < 14) atomicAdd(by_focal + 2 * camera + i - 12, sum);
        else atomicAdd(by_centre + 2 * camera + i - 14, sum);
    }
}

// Rounded before it is added, as on every other device: a fused sum may move a disc's edge.
__device__ float product(float a, float b) { return __fmul_rn(a, b); }
__device__ double product(double a, double b) { return __dmul_rn(a, b); }

// Call keep(pixel of the batch) for every pixel that a point covers.
template <typename T, typename Keep>
__device__ void cover(
    T u, T v, Index image, Index height, Index width, T radius, Keep keep) {
    Index column = u == T(width) ? width - 1 : Index(floor(u));
    Index row = v == T(height) ? height - 1 : Index(floor(v));
    Index start = image * height * width, reach = Index(ceil(radius));
    if (row >= 0 && row < height && column >= 0 && column < width)
        keep(start + row * width + column);
    if (reach == 0) return;
    for (Index i = max(row - reach, Index(0)); i <= row + reach && i < height; ++i)
        for (Index j = max(column - reach, Index(0)); j <= column + reach && j < width; ++j) {
            T du = T(j) + T(0.5) - u, dv = T(i) + T(0.5) - v;
            if (product(du, du) + product(dv, dv) <= product(radius, radius) &&
                (i != row || j != column))
                keep(start + i * width + j);
        }
}

// Single precision: depth and index in one key, for positive floats are ordered like their bits.
__global__ void splat_keys(
    const float* pixels, const float* depth, const bool* valid, Key* keys, Index images,
    Index count, Index height, Index width, double radius) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= images * count || !valid[n]) return;
    Key key = Key(__float_as_uint(depth[n])) << 32 | Key(n % count);
    cover(pixels[2 * n], pixels[2 * n + 1], n / count, height, width, float(radius),
          [=](Index pixel) { atomicMin(keys + pixel, key); });
}

__global__ void read_keys(const Key* keys, float* depth, int* index, Index count) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    Key key = keys[n];
    depth[n] = key == EMPTY ? 0.0f : __uint_as_float(unsigned(key >> 32));
    index[n] = key == EMPTY ? -1 : int(key & 0xffffffffULL);
}

// Double precision: first the nearest depth of every pixel, then the first point that has it. An
// index of -1 is larger than all others, taken without sign.
__global__ void splat_depths(
    const double* pixels, const double* depth, const bool* valid, Key* nearest, Index images, Index count,
    Index height, Index width, double radius) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= images * count || !valid[n]) return;
    Key bits = Key(__double_as_longlong(depth[n]));
    cover(pixels[2 * n], pixels[2 * n + 1], n / count, height, width, radius,
          [=](Index pixel) { atomicMin(nearest + pixel, bits); });
}

__global__ void splat_indices(
    const double* pixels, const double* depth, const bool* valid, const Key* nearest,
    unsigned* index, Index images, Index count, Index height, Index width, double radius) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= images * count || !valid[n]) return;
    Key bits = Key(__double_as_longlong(depth[n]));
    unsigned place = unsigned(n % count);
    cover(pixels[2 * n], pixels[2 * n + 1], n / count, height, width, radius,
          [=](Index pixel) {
              if (nearest[pixel] == bits) atomicMin(index + pixel, place);
          });
}

__global__ void read_depths(const Key* nearest, double* depth, Index count) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n < count) depth[n] = nearest[n] == EMPTY ? 0.0 : __longlong_as_double((long long)nearest[n]);
}
