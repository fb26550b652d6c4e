// Depth maps to points and back-propagation; reference.py says what is computed.
//
// Lengths are stored as T, all else as R. A thread takes WIDTH neighbouring pixels, all of one row,
// so that every load and store of a warp is whole.
//
// entry point: unproject<float, float, 1>
// entry point: unproject<float, float, 4>
// entry point: unproject<double, double, 1>
// entry point: unproject<double, double, 2>
// entry point: unproject<__half, float, 1>
// entry point: unproject<__half, float, 4>
// entry point: unproject<__nv_bfloat16, float, 1>
// entry point: unproject<__nv_bfloat16, float, 4>
// entry point: unproject_backward<float, float, 1>
// entry point: unproject_backward<float, float, 4>
// entry point: unproject_backward<double, double, 1>
// entry point: unproject_backward<double, double, 2>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long Index;

template <typename T, int WIDTH>
struct alignas(sizeof(T) * WIDTH) Pack {
    T value[WIDTH];
};

template <typename R>
struct Camera {
    R fx, fy, cx, cy;
    const R* turn;
};

template <typename R>
__device__ Camera<R> camera_of(const R* focal, const R* centre, const R* rotation, Index image) {
    return {
        focal[2 * image], focal[2 * image + 1], centre[2 * image], centre[2 * image + 1],
        rotation + 9 * image};
}

template <typename R>
__device__ void turned(const R* turn, R x, R y, R (&ray)[3]) {
#pragma unroll
    for (int k = 0; k < 3; ++k) ray[k] = turn[3 * k] * x + (turn[3 * k + 1] * y + turn[3 * k + 2]);
}

template <typename T, typename R, int WIDTH>
__global__ void unproject(
    const T* depth, const R* focal, const R* centre, const R* rotation, const R* translation,
    R* out, bool* valid, Index images, Index height, Index width, Index along_ray, double nearest) {
    Index first = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
    if (first >= images * height * width) return;
    Index row = first / width, image = row / height;
    Camera<R> camera = camera_of(focal, centre, rotation, image);
    const R* shift = translation + 3 * image;
    R y = (R(row - image * height) + R(0.5) - camera.cy) / camera.fy;
    Pack<T, WIDTH> lengths = *reinterpret_cast<const Pack<T, WIDTH>*>(depth + first);
    Pack<R, WIDTH> points[3];
    Pack<bool, WIDTH> known;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        R x = (R(first + j - row * width) + R(0.5) - camera.cx) / camera.fx;
        R d = R(lengths.value[j]);
        R z = along_ray ? d / sqrt(x * x + y * y + R(1)) : d;
        bool ok = d > R(nearest) && isfinite(d) && isfinite(x * z) && isfinite(y * z);
        R ray[3];
        turned(camera.turn, x, y, ray);
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            int at = 3 * j + k;
            points[at / WIDTH].value[at % WIDTH] = ok ? ray[k] * z + shift[k] : R(0);
        }
        known.value[j] = ok;
    }
    Pack<R, WIDTH>* packs = reinterpret_cast<Pack<R, WIDTH>*>(out + 3 * first);
#pragma unroll
    for (int k = 0; k < 3; ++k) packs[k] = points[k];
    *reinterpret_cast<Pack<bool, WIDTH>*>(valid + first) = known;
}

template <typename T, typename R, int WIDTH>
__global__ void unproject_backward(
    const R* grad, const bool* valid, const R* focal, const R* centre, const R* rotation, R* out,
    Index images, Index height, Index width, Index along_ray) {
    Index first = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
    if (first >= images * height * width) return;
    Index row = first / width, image = row / height;
    Camera<R> camera = camera_of(focal, centre, rotation, image);
    R y = (R(row - image * height) + R(0.5) - camera.cy) / camera.fy;
    Pack<bool, WIDTH> known = *reinterpret_cast<const Pack<bool, WIDTH>*>(valid + first);
    Pack<R, WIDTH> grads[3], lengths;
#pragma unroll
    for (int k = 0; k < 3; ++k)
        grads[k] = reinterpret_cast<const Pack<R, WIDTH>*>(grad + 3 * first)[k];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        R x = (R(first + j - row * width) + R(0.5) - camera.cx) / camera.fx;
        R ray[3], along = R(0);
        turned(camera.turn, x, y, ray);
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            int at = 3 * j + k;
            along += ray[k] * grads[at / WIDTH].value[at % WIDTH];
        }
        if (along_ray) along /= sqrt(x * x + y * y + R(1));
        lengths.value[j] = known.value[j] ? along : R(0);
    }
    *reinterpret_cast<Pack<R, WIDTH>*>(out + first) = lengths;
}
