// Pooling of weighted features into cells and its derivative; reference.py says what is computed.
//
// A block is (lanes, pixels): the lanes of a pixel share its channels, so that a row of features is
// one coalesced access; pixels of a block are neighbours, whose weights and cells are too.
//
// entry point: pool<float>
// entry point: pool<double>
// entry point: pool_backward<float>
// entry point: pool_backward<double>
// entry point: frustum_cells<float>
// entry point: frustum_cells<double>

typedef long long Index;

template <typename T>
__global__ void pool(const T* features, const T* weights, const Index* cell, T* out, Index views,
                     Index bins, Index pixels, Index channels, Index cells) {
    Index row = blockIdx.x * Index(blockDim.y) + threadIdx.y;
    if (row >= views * pixels) return;
    Index view = row / pixels, pixel = row % pixels;
    for (Index channel = threadIdx.x; channel < channels; channel += blockDim.x) {
        T feature = features[row * channels + channel];
        for (Index bin = 0; bin < bins; ++bin) {
            Index place = (view * bins + bin) * pixels + pixel;
            Index target = cell[place];
            if (target < 0 || target >= cells) continue;
            atomicAdd(out + target * channels + channel, weights[place] * feature);
        }
    }
}

// Sum over the lanes of a pixel; all lanes of the warp take part.
template <typename T>
__device__ T over_lanes(T value) {
    for (int step = blockDim.x / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step, blockDim.x);
    return value;
}

template <typename T>
__global__ void pool_backward(const T* grad, const T* features, const T* weights,
                              const Index* cell, T* for_features, T* for_weights, Index views,
                              Index bins, Index pixels, Index channels, Index cells) {
    Index row = blockIdx.x * Index(blockDim.y) + threadIdx.y;
    bool exists = row < views * pixels;
    Index view = exists ? row / pixels : 0, pixel = exists ? row % pixels : 0;
    for (Index first = 0; first < channels; first += blockDim.x) {
        Index channel = first + threadIdx.x;
        bool holds = exists && channel < channels;
        T feature = holds ? features[row * channels + channel] : T(0);
        T sum = T(0);
        for (Index bin = 0; bin < bins; ++bin) {
            Index place = (view * bins + bin) * pixels + pixel;
            Index source = cell[place];
            bool inside = source >= 0 && source < cells;
            T slope = holds && inside ? grad[source * channels + channel] : T(0);
            if (inside) sum += weights[place] * slope;
            T product = over_lanes(slope * feature);
            if (exists && threadIdx.x == 0)
                for_weights[place] = first == 0 ? product : for_weights[place] + product;
        }
        if (holds) for_features[row * channels + channel] = sum;
    }
}

// One thread a point: views by bins by pixels.
template <typename T>
__global__ void frustum_cells(const T* start, const T* step, const T* depths,
                              const T* frame, Index* out,
                              Index views, Index bins, Index pixels, Index item_views, Index x,
                              Index y, Index z) {
    Index place = blockIdx.x * Index(blockDim.x) + threadIdx.x;
    if (place >= views * bins * pixels) return;
    Index view = place / (bins * pixels), pixel = place % pixels;
    T depth = depths[place / pixels % bins];
    const T* from = start + 3 * view;
    const T* along = step + 3 * (view * pixels + pixel);
    T i = (from[0] + along[0] * depth - frame[0]) / frame[3];
    T j = (from[1] + along[1] * depth - frame[1]) / frame[4];
    T k = (from[2] + along[2] * depth - frame[2]) / frame[5];
    // NaN compares false.
    bool inside = i >= 0 && i < T(x) && j >= 0 && j < T(y) && k >= 0 && k < T(z);
    Index cell = inside ? (Index(k) * y + Index(j)) * x + Index(i) : 0;
    out[place] = inside ? view / item_views * x * y * z + cell : -1;
}
