// Points on screws; reference.py says what is computed, cpu.py cites the formulas. One thread is one
// point; its arithmetic is in double precision, which memory traffic hides.
//
// entry point: find_boxes<float>
// entry point: find_boxes<double>
// entry point: move_by_screws<float>
// entry point: move_by_screws<double>
// entry point: move_by_screws_backward<float>
// entry point: move_by_screws_backward<double>

typedef long long Index;

const Index NEVER_US = 0x7fffffffffffffffLL;

struct Vector {
    double x, y, z;
};

__device__ Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
__device__ Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
__device__ Vector operator*(double s, Vector a) { return {s * a.x, s * a.y, s * a.z}; }
__device__ double dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
__device__ Vector cross(Vector a, Vector b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
__device__ bool finite(Vector a) { return isfinite(a.x) && isfinite(a.y) && isfinite(a.z); }

template <typename T>
__device__ Vector load(const T* from) {
    return {double(from[0]), double(from[1]), double(from[2])};
}

template <typename T>
__device__ void store(Vector a, T* into) {
    into[0] = T(a.x);
    into[1] = T(a.y);
    into[2] = T(a.z);
}

template <typename T>
__device__ Vector transform(const T* m, Vector p) {
    return {m[0] * p.x + m[1] * p.y + m[2] * p.z + m[3],
            m[4] * p.x + m[5] * p.y + m[6] * p.z + m[7],
            m[8] * p.x + m[9] * p.y + m[10] * p.z + m[11]};
}

template <typename T>
__device__ Vector turn_back(const T* m, Vector g) {
    return {m[0] * g.x + m[4] * g.y + m[8] * g.z, m[1] * g.x + m[5] * g.y + m[9] * g.z,
            m[2] * g.x + m[6] * g.y + m[10] * g.z};
}

struct Coefficients {
    double a, b, c;
};

__device__ Coefficients coefficients(double x) {
    if (x < 0.25) {
        double b = 0, c = 0;
        for (int n = 7; n >= 0; --n) {
            b = (1.0 - x * b) / ((2 * n + 1) * (2 * n + 2));
            c = (1.0 - x * c) / ((2 * n + 2) * (2 * n + 3));
        }
        return {1.0 - x * c, b, c};
    }
    double angle = sqrt(x), half = sin(0.5 * angle), a = sin(angle) / angle;
    return {a, 2.0 * half * half / x, (1.0 - a) / x};
}

__device__ Coefficients slopes(double x, Coefficients k) {
    double by_a = 0.5 * (k.c - k.b);
    if (x >= 0.25) return {by_a, (0.5 * k.a - k.b) / x, -(by_a + k.c) / x};
    double by_b = 0, by_c = 0;
    for (int n = 7; n >= 0; --n) {
        by_b = (n + 1.0 - x * by_b) / ((2 * n + 3) * (2 * n + 4));
        by_c = (n + 1.0 - x * by_c) / ((2 * n + 4) * (2 * n + 5));
    }
    return {by_a, -0.5 * by_b, -by_c / 6.0};
}

__device__ Vector follow(Vector u, Vector w, Vector p) {
    Coefficients k = coefficients(dot(w, w));
    Vector wp = cross(w, p), wu = cross(w, u);
    return p + u + k.a * wp + k.b * (cross(w, wp) + wu) + k.c * cross(w, wu);
}

struct Gradients {
    Vector u, w, p;
};

__device__ Gradients follow_backward(Vector u, Vector w, Vector p, Vector h) {
    double x = dot(w, w);
    Coefficients k = coefficients(x), by = slopes(x, k);
    Vector wp = cross(w, p), wu = cross(w, u), wh = cross(w, h);
    Vector wwu = cross(w, wu), wwh = cross(w, wh);
    double along = 2.0 * (by.a * dot(h, wp) + by.b * (dot(h, cross(w, wp)) + dot(h, wu)) +
                          by.c * dot(h, wwu));
    return {h - k.b * wh + k.c * wwh,
            k.a * cross(p, h) + k.b * (cross(wp, h) - cross(p, wh) + cross(u, h)) +
                k.c * (cross(wu, h) - cross(u, wh)) + along * w,
            h - k.a * wh + k.b * wwh};
}

// The last knot at or before a time, or the first one.
__device__ Index knot_at(const Index* times, Index knots, Index time) {
    Index low = 1, high = knots;
    while (low < high) {
        Index middle = (low + high) / 2;
        if (times[middle] <= time && times[middle] != NEVER_US) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low - 1;
}

template <typename T>
__global__ void find_boxes(
    const T* points, const Index* times_us, const Index* knots_us, const Index* begin_us,
    const Index* end_us, const T* matrix, const T* twist, const T* half_size, int* out,
    Index count, Index boxes, Index knots) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    Vector p = load(points + 3 * n);
    Index time = times_us[n];
    int found = -1;
    for (Index box = 0; box < (finite(p) ? boxes : 0) && found < 0; ++box) {
        if (time < begin_us[box] || time > end_us[box]) continue;
        Index row = box * knots + knot_at(knots_us + box * knots, knots, time);
        double seconds = double(time - knots_us[row]) * 1e-6;
        Vector half = load(half_size + 3 * box), velocity = load(twist + 6 * row);
        Vector at = transform(matrix + 12 * row, p);
        // On a screw the centre keeps its speed: it cannot have come nearer than this.
        double came = sqrt(dot(velocity, velocity)) * fabs(seconds);
        double reach = 1.0001 * (sqrt(dot(half, half)) + came) + 1e-3;
        if (dot(at, at) > reach * reach) continue;
        at = follow(-seconds * velocity, -seconds * load(twist + 6 * row + 3), at);
        if (fabs(at.x) <= half.x && fabs(at.y) <= half.y && fabs(at.z) <= half.z) found = int(box);
    }
    out[n] = found;
}

template <typename T>
__global__ void move_by_screws(
    const T* points, const Index* times_us, const int* body, const Index* knots_us,
    const Index* begin_us, const Index* end_us, const T* matrix, const T* twist, T* out,
    bool* valid, Index count, Index bodies, Index knots, Index inverse) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    Vector p = load(points + 3 * n);
    Index number = body[n], time = times_us[n];
    bool known = number == -1;
    if (number >= 0 && number < bodies && time >= begin_us[number] && time <= end_us[number]) {
        known = true;
        Index row = number * knots + knot_at(knots_us + number * knots, knots, time);
        double seconds = double(time - knots_us[row]) * (inverse ? -1e-6 : 1e-6);
        Vector u = seconds * load(twist + 6 * row), w = seconds * load(twist + 6 * row + 3);
        const T* m = matrix + 12 * row;
        p = inverse ? follow(u, w, transform(m, p)) : transform(m, follow(u, w, p));
    }
    known = known && finite(p);
    store(known ? p : Vector{0, 0, 0}, out + 3 * n);
    valid[n] = known;
}

template <typename T>
__global__ void move_by_screws_backward(
    const T* grad, const T* points, const Index* times_us, const int* body, const bool* valid,
    const Index* knots_us, const T* matrix, const T* twist, T* by_points, T* by_matrix,
    T* by_twist, Index count, Index bodies, Index knots, Index inverse) {
    Index n = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    Vector g = valid[n] ? load(grad + 3 * n) : Vector{0, 0, 0};
    Index number = body[n];
    if (!valid[n] || number < 0 || number >= bodies) {
        store(g, by_points + 3 * n);
        return;
    }
    Index row = number * knots + knot_at(knots_us + number * knots, knots, times_us[n]);
    double seconds = double(times_us[n] - knots_us[row]) * (inverse ? -1e-6 : 1e-6);
    Vector p = load(points + 3 * n);
    Vector u = seconds * load(twist + 6 * row), w = seconds * load(twist + 6 * row + 3);
    const T* m = matrix + 12 * row;
    Vector inner = inverse ? p : follow(u, w, p), outer = g;
    Gradients by = inverse ? follow_backward(u, w, transform(m, p), g)
                           : follow_backward(u, w, p, turn_back(m, g));
    if (inverse) outer = by.p;
    store(inverse ? turn_back(m, outer) : by.p, by_points + 3 * n);
    double left[3] = {outer.x, outer.y, outer.z}, right[4] = {inner.x, inner.y, inner.z, 1.0};
    double velocity[6] = {by.u.x, by.u.y, by.u.z, by.w.x, by.w.y, by.w.z};
    for (int i = 0; i < 12; ++i) atomicAdd(by_matrix + 12 * row + i, T(left[i / 4] * right[i % 4]));
    for (int i = 0; i < 6; ++i) atomicAdd(by_twist + 6 * row + i, T(seconds * velocity[i]));
}
