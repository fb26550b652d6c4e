// Normals from pinhole depth and back-propagation, a thread a pixel; reference.py says what is
// computed.
//
// Depths are stored as T, all else as R. Neighbours come out of the cache: each depth is fetched
// from memory once, more or less.
//
// entry point: normals<float, float>
// entry point: normals<double, double>
// entry point: normals<__half, float>
// entry point: normals<__nv_bfloat16, float>
// entry point: normals_backward<float, float>
// entry point: normals_backward<double, double>
// entry point: normals_backward<__half, float>
// entry point: normals_backward<__nv_bfloat16, float>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long Index;

template <typename T, typename R>
struct View {
    const T* depth;  // of one image
    R fx, fy, cx, cy;
    Index height, width;
    R nearest;
};

template <typename T, typename R>
__device__ View<T, R> view_of(
    const T* depth, const R* focal, const R* centre, Index image, Index height, Index width,
    double nearest) {
    return {
        depth + image * height * width, focal[2 * image], focal[2 * image + 1],
        centre[2 * image], centre[2 * image + 1], height, width, R(nearest)};
}

template <typename R>
struct Vector {
    R x, y, z;
};

template <typename R>
__device__ Vector<R> operator-(Vector<R> a, Vector<R> b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <typename R>
__device__ Vector<R> operator*(Vector<R> a, R b) {
    return {a.x * b, a.y * b, a.z * b};
}
template <typename R>
__device__ R dot(Vector<R> a, Vector<R> b) {
    return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <typename R>
__device__ Vector<R> cross(Vector<R> a, Vector<R> b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <typename T, typename R>
__device__ Vector<R> ray(const View<T, R>& view, Index row, Index column) {
    return {
        (R(column) + R(0.5) - view.cx) / view.fx, (R(row) + R(0.5) - view.cy) / view.fy, R(1)};
}

template <typename T, typename R>
__device__ bool point(const View<T, R>& view, Index row, Index column, Vector<R>& p) {
    R d = R(view.depth[row * view.width + column]);
    p = ray(view, row, column) * d;
    return d > view.nearest && isfinite(p.x) && isfinite(p.y) && isfinite(p.z);
}

template <typename R>
struct Patch {
    Vector<R> fall, across;  // differences over the depth
    Vector<R> normal;
    R scale;  // what makes the cross product the normal
    R depth;
};

// Returns whether the pixel has a normal.
template <typename T, typename R>
__device__ bool patch_at(const View<T, R>& view, Index row, Index column, Patch<R>& patch) {
    if (row < 1 || column < 1 || row >= view.height - 1 || column >= view.width - 1) return false;
    Vector<R> here, left, right, up, down;
    bool known = point(view, row, column, here) & point(view, row, column - 1, left) &
                 point(view, row, column + 1, right) & point(view, row - 1, column, up) &
                 point(view, row + 1, column, down);
    if (!known) return false;
    // A surface patch keeps its shape at any scale; at unit depth nothing over- or underflows.
    R inverse = R(1) / here.z;
    patch.depth = here.z;
    patch.fall = (down - up) * inverse;
    patch.across = (right - left) * inverse;
    Vector<R> product = cross(patch.fall, patch.across);
    R squared = dot(product, product);
    if (!(squared > R(0)) || !isfinite(squared)) return false;
    patch.scale = R(1) / sqrt(squared);
    if (dot(product, here) > R(0)) patch.scale = -patch.scale;
    patch.normal = product * patch.scale;
    return true;
}

template <typename T, typename R>
__global__ void normals(
    const T* depth, const R* focal, const R* centre, R* out, bool* valid, Index images,
    Index height, Index width, double nearest) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= images * height * width) return;
    Index row = n / width, image = row / height;
    View<T, R> view = view_of(depth, focal, centre, image, height, width, nearest);
    Patch<R> patch;
    bool known = patch_at(view, row - image * height, n - row * width, patch);
    out[3 * n] = known ? patch.normal.x : R(0);
    out[3 * n + 1] = known ? patch.normal.y : R(0);
    out[3 * n + 2] = known ? patch.normal.z : R(0);
    valid[n] = known;
}

// What the normal at a pixel pulls at the point right of it, or below it.
template <typename T, typename R>
__device__ Vector<R> pull(
    const View<T, R>& view, const R* grad, Index row, Index column, bool below) {
    Patch<R> patch;
    if (!patch_at(view, row, column, patch)) return {R(0), R(0), R(0)};
    const R* g = grad + 3 * (row * view.width + column);
    Vector<R> gradient = {g[0], g[1], g[2]};
    // The derivative of c / |c|, over the depth by which both differences were divided.
    Vector<R> turning = gradient - patch.normal * dot(patch.normal, gradient);
    turning = turning * (patch.scale / patch.depth);
    return below ? cross(patch.across, turning) : cross(turning, patch.fall);
}

template <typename T, typename R>
__global__ void normals_backward(
    const R* grad, const T* depth, const R* focal, const R* centre, R* out, Index images,
    Index height, Index width, double nearest) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= images * height * width) return;
    Index line = n / width, image = line / height;
    Index row = line - image * height, column = n - line * width;
    View<T, R> view = view_of(depth, focal, centre, image, height, width, nearest);
    const R* grads = grad + 3 * image * height * width;
    Vector<R> across = pull(view, grads, row, column - 1, false) -
                       pull(view, grads, row, column + 1, false);
    Vector<R> down = pull(view, grads, row - 1, column, true) -
                     pull(view, grads, row + 1, column, true);
    Vector<R> total = {across.x + down.x, across.y + down.y, across.z + down.z}, p;
    out[n] = point(view, row, column, p) ? dot(total, ray(view, row, column)) : R(0);
}
