// Inverse distribution functions row by row; reference.py says what is computed.
//
// A block is (32, rows): a warp sums a row's weights, keeps the sums in shared memory, or in
// scratch where that is too small, and then looks for a place a lane.
//
// entry point: invert_cdf<float>
// entry point: invert_cdf<double>

typedef long long Index;

constexpr unsigned ALL = 0xffffffffu;

// Fill in the sums up to each edge and tell whether they are finite. Sums of a tree can fall by
// rounding, where these must not: so each is the largest up to it.
template <typename R>
__device__ bool accumulate(const R* edges, const R* weights, bool lengths, Index count, R* sums) {
    int lane = threadIdx.x;
    R carry = R(0);
    bool finite = true;
    if (lane == 0) sums[0] = R(0);
    for (Index start = 0; start < count; start += 32) {
        Index k = start + lane;
        R x = R(0);
        if (k < count) x = lengths ? edges[k + 1] - edges[k] : weights[k];
        for (int apart = 1; apart < 32; apart *= 2) {
            R other = __shfl_up_sync(ALL, x, apart);
            if (lane >= apart) x += other;
        }
        x += carry;
        finite = finite && isfinite(x);
        for (int apart = 1; apart < 32; apart *= 2) {
            R other = __shfl_up_sync(ALL, x, apart);
            if (lane >= apart && other > x) x = other;
        }
        x = x < carry ? carry : x;
        if (k < count) sums[k + 1] = x;
        carry = __shfl_sync(ALL, x, 31);
    }
    __syncwarp();
    return __all_sync(ALL, finite);
}

// Return the first interval whose sum is beyond the target, or, if it may also be met, meets it.
template <typename R>
__device__ Index find(const R* sums, Index count, R target, bool meet) {
    Index low = 0, high = count - 1;
    while (low < high) {
        Index middle = low + (high - low) / 2;
        R sum = sums[middle + 1];
        if (sum > target || (meet && sum == target))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

template <typename R>
__global__ void invert_cdf(
    const R* edges, const R* weights, const R* fractions, R* places, bool* known, R* scratch,
    Index rows, Index count, Index samples, Index shared_fractions) {
    extern __shared__ __align__(16) unsigned char memory[];
    Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    Index size = count + 1;
    R* sums = scratch == nullptr ? reinterpret_cast<R*>(memory) + threadIdx.y * size
                                 : scratch + row * size;
    const R* edge = edges + row * size;
    const R* share = fractions + (shared_fractions != 0 ? 0 : row * samples);
    bool finite = accumulate(edge, weights + row * count, false, count, sums);
    if (finite && sums[count] == R(0)) {
        __syncwarp();
        finite = accumulate(edge, weights, true, count, sums);
    }
    if (threadIdx.x == 0) known[row] = finite;
    R total = sums[count];
    Index last = finite ? find(sums, count, total, true) : 0;
    for (Index j = threadIdx.x; j < samples; j += 32) {
        R place = R(0);
        if (finite) {
            R target = share[j] * total;
            Index k = min(find(sums, count, target, false), last);
            R mass = sums[k + 1] - sums[k];
            R inside = mass > R(0) ? (target - sums[k]) / mass : R(1);
            R moved = edge[k] + (edge[k + 1] - edge[k]) * inside;
            place = inside < R(1) ? min(moved, edge[k + 1]) : edge[k + 1];
        }
        places[row * samples + j] = place;
    }
}
