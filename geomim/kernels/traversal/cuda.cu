// Walk rays through the cells of a grid; reference.py says what is computed, cpu.py why so.
// One thread is one ray. Double precision is rounded as on the CPU, so that all find the same
// cells: where a product and a sum could be fused and it matters, they are kept apart.
//
// entry point: count_traversal<float>
// entry point: count_traversal<double>
// entry point: fill_traversal<float>
// entry point: fill_traversal<double>

typedef long long Index;

const double SLACK = 1e-6;
const Index NO_LIMIT = 0x7fffffffffffffffLL;

__device__ double infinity() { return __longlong_as_double(0x7ff0000000000000LL); }

// One axis of a ray in index coordinates.
struct Axis {
    double o, d, inverse;
    Index size;

    __device__ bool moves() const { return isfinite(inverse); }
    __device__ double crossing(double plane) const { return (plane - o) * inverse; }
};

struct Span {
    double start, stop;
};

// Where a walk is: the planes to cross next, where, and the steps to those after.
struct Walk {
    Index voxel, stride[3];
    double plane[3], crossing[3], step[3];
};

__device__ Span slab(const Axis& axis) {
    if (!axis.moves()) {
        bool inside = axis.o >= 0.0 && axis.o <= double(axis.size);
        return inside ? Span{-infinity(), infinity()} : Span{infinity(), -infinity()};
    }
    double first = axis.crossing(0.0), last = axis.crossing(double(axis.size));
    return first < last ? Span{first, last} : Span{last, first};
}

__device__ Index cell_at(const Axis& axis, double start) {
    double here = axis.moves() ? axis.o + start * axis.d : axis.o;
    double last = double(axis.size) - 1.0;
    double i = fmin(fmax(floor(here), 0.0), last);
    if (!axis.moves()) return Index(i);
    // Rounding may have put the point on the other side of a plane.
    if (axis.d > 0.0) {
        while (i < last && axis.crossing(i + 1.0) <= start) i += 1.0;
        while (i > 0.0 && axis.crossing(i) > start) i -= 1.0;
    } else {
        while (i > 0.0 && axis.crossing(i) <= start) i -= 1.0;
        while (i < last && axis.crossing(i + 1.0) > start) i += 1.0;
    }
    return Index(i);
}

template <typename T>
__device__ void read_line(
    const T* origin, const T* direction, const double* lower, const double* cell,
    const Index* shape, Axis* line) {
    for (int k = 0; k < 3; ++k) {
        double d = double(direction[k]) / cell[k];
        line[k] = {(double(origin[k]) - lower[k]) / cell[k], d, 1.0 / d, shape[k]};
    }
}

// A ray that misses the grid gets nowhere; NaN compares false.
__device__ Span span_of(const Axis* line, double near, double far) {
    bool known = true, moves = false;
    for (int k = 0; k < 3; ++k) {
        known = known && isfinite(line[k].o) && isfinite(line[k].d);
        moves = moves || line[k].moves();
        Span along = slab(line[k]);
        if (near < along.start) near = along.start;
        if (far > along.stop) far = along.stop;
    }
    bool hits = known && moves && isfinite(near) && isfinite(far) && near < far;
    return hits ? Span{near, far} : Span{0.0, 0.0};
}

__device__ Walk begin(const Axis* line, double start) {
    Walk walk;
    walk.voxel = 0;
    Index stride = 1;
    for (int k = 0; k < 3; ++k) {
        const Axis& axis = line[k];
        Index i = cell_at(axis, start);
        walk.voxel += i * stride;
        walk.step[k] = axis.moves() ? (axis.d > 0.0 ? 1.0 : -1.0) : 0.0;
        walk.stride[k] = Index(walk.step[k]) * stride;
        walk.plane[k] = double(i) + (axis.d > 0.0 ? 1.0 : 0.0);
        walk.crossing[k] = axis.moves() ? axis.crossing(walk.plane[k]) : infinity();
        stride *= axis.size;
    }
    return walk;
}

__device__ double next_crossing(const Walk& walk, double stop) {
    return fmin(fmin(walk.crossing[0], walk.crossing[1]), fmin(walk.crossing[2], stop));
}

// Cross all planes that are crossed at end.
__device__ void advance(Walk& walk, const Axis* line, double end) {
    for (int k = 0; k < 3; ++k) {
        if (walk.crossing[k] <= end) {
            walk.plane[k] += walk.step[k];
            walk.crossing[k] = line[k].crossing(walk.plane[k]);
            walk.voxel += walk.stride[k];
        }
    }
}

// Where results of a ray go; nowhere while they are counted.
template <typename T>
struct Out {
    Index *rays, *voxels;
    T *starts, *ends;
    Index ray, place, room;

    __device__ void put(Index n, double start, double end) const {
        rays[place + n] = ray;
        starts[place + n] = T(start);
        ends[place + n] = T(end);
    }
};

template <typename T, bool FILL>
__device__ Index segments(const Axis* line, Span span, const bool* occupied, const Out<T>& out) {
    double start = span.start;
    if (!(start < span.stop)) return 0;
    Walk walk = begin(line, start);
    Index count = 0;
    while (start < span.stop && count < out.room) {
        double end = next_crossing(walk, span.stop);
        if ((!occupied || occupied[walk.voxel]) && T(end) > T(start)) {
            if (FILL) {
                out.put(count, start, end);
                out.voxels[out.place + count] = walk.voxel;
            }
            ++count;
        }
        advance(walk, line, end);
        start = end;
    }
    return count;
}

// Divide a stretch into equal samples, behind those there are already.
template <typename T, bool FILL>
__device__ Index divide(double entry, double leave, double step, Index before, const Out<T>& out) {
    if (!(T(leave) > T(entry))) return 0;
    double length = leave - entry, count = fmax(ceil(length / step - SLACK), 1.0);
    if (FILL)
        for (Index n = 0; n < Index(count) && before + n < out.room; ++n)
            out.put(before + n, __dadd_rn(entry, __dmul_rn(length, double(n) / count)),
                    __dadd_rn(entry, __dmul_rn(length, double(n + 1) / count)));
    return Index(count);
}

template <typename T, bool FILL>
__device__ Index samples(
    const Axis* line, Span span, const bool* occupied, double step, const Out<T>& out) {
    double start = span.start, entry = start;
    if (!(start < span.stop)) return 0;
    Walk walk = begin(line, start);
    Index count = 0;
    bool inside = false;
    while (start < span.stop && count < out.room) {
        double end = next_crossing(walk, span.stop);
        bool busy = !occupied || occupied[walk.voxel];
        if (busy && !inside) entry = start;
        inside = inside || busy;
        if (inside && (!busy || end == span.stop)) {
            count += divide<T, FILL>(entry, busy ? end : start, step, count, out);
            inside = false;
        }
        advance(walk, line, end);
        start = end;
    }
    return count;
}

template <typename T, bool FILL>
__device__ Index traverse(
    const T* origins, const T* directions, const double* near, const double* far,
    const bool* occupied, double lower_x, double lower_y, double lower_z, double cell_x,
    double cell_y, double cell_z, Index nx, Index ny, Index nz, double step, Index items,
    Index total, const Out<T>& out) {
    double lower[3] = {lower_x, lower_y, lower_z}, cell[3] = {cell_x, cell_y, cell_z};
    Index shape[3] = {nx, ny, nz};
    Axis line[3];
    read_line(origins + 3 * out.ray, directions + 3 * out.ray, lower, cell, shape, line);
    Span span = span_of(line, near[out.ray], far[out.ray]);
    if (occupied) occupied += out.ray / (total / items) * nx * ny * nz;
    return step > 0.0 ? samples<T, FILL>(line, span, occupied, step, out)
                      : segments<T, FILL>(line, span, occupied, out);
}

template <typename T>
__global__ void count_traversal(
    const T* origins, const T* directions, const double* near, const double* far,
    const bool* occupied, double lower_x, double lower_y, double lower_z, double cell_x,
    double cell_y, double cell_z, Index nx, Index ny, Index nz, double step, Index items,
    Index total, Index* counts) {
    Index ray = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (ray >= total) return;
    Out<T> out = {nullptr, nullptr, nullptr, nullptr, ray, 0, NO_LIMIT};
    counts[ray] = traverse<T, false>(
        origins, directions, near, far, occupied, lower_x, lower_y, lower_z, cell_x, cell_y,
        cell_z, nx, ny, nz, step, items, total, out);
}

template <typename T>
__global__ void fill_traversal(
    const T* origins, const T* directions, const double* near, const double* far,
    const bool* occupied, double lower_x, double lower_y, double lower_z, double cell_x,
    double cell_y, double cell_z, Index nx, Index ny, Index nz, double step, Index items,
    Index total, const Index* offsets, Index* rays, Index* voxels, T* starts, T* ends) {
    Index ray = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (ray >= total) return;
    Index place = offsets[ray];
    Out<T> out = {rays, voxels, starts, ends, ray, place, offsets[ray + 1] - place};
    traverse<T, true>(
        origins, directions, near, far, occupied, lower_x, lower_y, lower_z, cell_x, cell_y,
        cell_z, nx, ny, nz, step, items, total, out);
}
