// Lens distortion and its inverse; reference.py has the formulas, cpu.py the way to the solution.
//
// One thread a point, blocks of points along x, cameras along y. All arithmetic is double precision.
// A thread looks for its point by Newton's method, then, if need be, from the radial solution.
// Gradients of coefficients are summed within a block in a fixed order and leave as one partial sum
// a block, so that results repeat.
//
// entry point: distortion_reach<float>
// entry point: distortion_reach<double>
// entry point: undistort<float>
// entry point: undistort<double>
// entry point: undistort_backward<float>
// entry point: undistort_backward<double>

constexpr int COEFFICIENTS = 13;
constexpr int BLOCK = 128;
constexpr int NEWTON_STEPS = 10;
constexpr int RADIAL_STEPS = 100;
constexpr int ROOT_STEPS = 200;
constexpr double TOLERANCE = 1e-11;

struct Jet {
    double u, v, a, b, c, d;  // the distorted point and the Jacobian, row by row
};

struct Radial {
    double factor, slope, inverse;  // slope by the squared radius; one over the denominator
};

struct Point {
    double x, y;
    bool known;
};

template <typename T>
__device__ void load(const T* row, double* k) {
    for (int i = 0; i < COEFFICIENTS; ++i) k[i] = double(row[i]);
}

__device__ Radial radial(double s, const double* k) {
    double inverse = 1.0 / (1.0 + s * (k[5] + s * (k[6] + s * k[7])));
    double factor = (1.0 + s * (k[0] + s * (k[1] + s * (k[4] + s * k[12])))) * inverse;
    double slope = k[0] + s * (2.0 * k[1] + s * (3.0 * k[4] + s * 4.0 * k[12]));
    double below = k[5] + s * (2.0 * k[6] + s * 3.0 * k[7]);
    return {factor, (slope - factor * below) * inverse, inverse};
}

__device__ Jet distort(double x, double y, const double* k) {
    double s = x * x + y * y, xy = x * y, xx = x * x, yy = y * y;
    Radial r = radial(s, k);
    double slope = 2.0 * r.slope;
    double mixed = slope * xy + 2.0 * (k[2] * x + k[3] * y);
    double prism_u = 2.0 * (k[8] + 2.0 * k[9] * s), prism_v = 2.0 * (k[10] + 2.0 * k[11] * s);
    return {
        x * r.factor + 2.0 * k[2] * xy + k[3] * (s + 2.0 * xx) + s * (k[8] + k[9] * s),
        y * r.factor + k[2] * (s + 2.0 * yy) + 2.0 * k[3] * xy + s * (k[10] + k[11] * s),
        r.factor + slope * xx + 2.0 * k[2] * y + 6.0 * k[3] * x + prism_u * x,
        mixed + prism_u * y,
        mixed + prism_v * x,
        r.factor + slope * yy + 6.0 * k[2] * y + 2.0 * k[3] * x + prism_v * y,
    };
}

__device__ __noinline__ double radius(double target, const double* k, double reach) {
    double low = 0.0, high = reach;
    if (isinf(high)) {
        high = target;
        for (int i = 0; i < 64 && high * radial(high * high, k).factor < target; ++i) high *= 2.0;
        while (high > 0.0 && 0.5 * high * radial(0.25 * high * high, k).factor >= target)
            high *= 0.5;
    }
    double r = fmin(target, 0.5 * high);
    for (int i = 0; i < RADIAL_STEPS; ++i) {
        Radial at = radial(r * r, k);
        double over = r * at.factor - target;
        (over < 0.0 ? low : high) = r;
        double step = r - over / (at.factor + 2.0 * at.slope * r * r);
        if (!(low <= step && step <= high)) step = 0.5 * (low + high);
        if (fabs(step - r) <= 1e-15 * high) return step;
        r = step;
    }
    return r;
}

// Newton's method until the point is a regular solution, the number of steps at most.
__device__ __noinline__ Point solve(double x, double y, double u, double v, const double* k, double reach) {
    double enough = TOLERANCE * TOLERANCE * (1.0 + u * u + v * v);
    for (int i = 0;; ++i) {
        Jet at = distort(x, y, k);
        double ru = at.u - u, rv = at.v - v, determinant = at.a * at.d - at.b * at.c;
        bool known = ru * ru + rv * rv <= enough && determinant > 0.0 && x * x + y * y < reach * reach;
        if (i == NEWTON_STEPS) return {x, y, known};
        x -= (at.d * ru - at.b * rv) / determinant;
        y -= (at.a * rv - at.c * ru) / determinant;
        // The step just made costs little and takes the solution to rounding.
        if (known) return {x, y, true};
    }
}

template <typename T>
__global__ void undistort(const T* distorted, const T* coefficients, const T* reach, T* out,
                          bool* known, long long points) {
    long long point = blockIdx.x * (long long)BLOCK + threadIdx.x, camera = blockIdx.y;
    if (point >= points) return;
    double k[COEFFICIENTS];
    load(coefficients + camera * COEFFICIENTS, k);
    long long at = camera * points + point;
    double u = double(distorted[2 * at]), v = double(distorted[2 * at + 1]);
    double limit = double(reach[camera]);
    Point found = solve(u, v, u, v, k, limit);
    double target = sqrt(u * u + v * v);
    if (!found.known && isfinite(target)) {
        double scale = target > 0.0 ? radius(target, k, limit) / target : 1.0;
        found = solve(u * scale, v * scale, u, v, k, limit);
    }
    known[at] = found.known;
    out[2 * at] = found.known ? T(found.x) : T(0);
    out[2 * at + 1] = found.known ? T(found.y) : T(0);
}

// The derivatives of wx u + wy v with respect to the coefficients.
__device__ void differentiate(double x, double y, double wx, double wy, const double* k,
                              double* total) {
    double s = x * x + y * y;
    Radial r = radial(s, k);
    double above = (wx * x + wy * y) * r.inverse * s, below = -r.factor * above;
    total[0] = above;
    total[1] = above * s;
    total[2] = wx * 2.0 * x * y + wy * (s + 2.0 * y * y);
    total[3] = wx * (s + 2.0 * x * x) + wy * 2.0 * x * y;
    total[4] = above * s * s;
    total[5] = below;
    total[6] = below * s;
    total[7] = below * s * s;
    total[8] = wx * s;
    total[9] = wx * s * s;
    total[10] = wy * s;
    total[11] = wy * s * s;
    total[12] = above * s * s * s;
}

template <typename T>
__global__ void undistort_backward(const T* grad, const T* undistorted, const bool* known,
                                   const T* coefficients, T* for_distorted, double* partial,
                                   long long points) {
    __shared__ double warps[BLOCK / 32][COEFFICIENTS];
    long long point = blockIdx.x * (long long)BLOCK + threadIdx.x, camera = blockIdx.y;
    double total[COEFFICIENTS] = {};
    if (point < points) {
        long long at = camera * points + point;
        double wx = 0.0, wy = 0.0;
        if (known[at]) {
            double k[COEFFICIENTS];
            load(coefficients + camera * COEFFICIENTS, k);
            double x = double(undistorted[2 * at]), y = double(undistorted[2 * at + 1]);
            double gx = double(grad[2 * at]), gy = double(grad[2 * at + 1]);
            Jet j = distort(x, y, k);
            double determinant = j.a * j.d - j.b * j.c;
            wx = (j.d * gx - j.c * gy) / determinant;
            wy = (j.a * gy - j.b * gx) / determinant;
            differentiate(x, y, -wx, -wy, k, total);
        }
        for_distorted[2 * at] = T(wx);
        for_distorted[2 * at + 1] = T(wy);
    }
    for (int i = 0; i < COEFFICIENTS; ++i) {
        for (int away = 16; away > 0; away /= 2)
            total[i] += __shfl_down_sync(0xffffffffu, total[i], away);
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32][i] = total[i];
    }
    __syncthreads();
    if (threadIdx.x < COEFFICIENTS) {
        double sum = 0.0;
        for (int warp = 0; warp < BLOCK / 32; ++warp) sum += warps[warp][threadIdx.x];
        partial[(camera * gridDim.x + blockIdx.x) * COEFFICIENTS + threadIdx.x] = sum;
    }
}

// The order-th derivative of a monic polynomial, and that one's own derivative.
__device__ __noinline__ double evaluate(const double* polynomial, int degree, int order, double t,
                           double* slope) {
    double value = 0.0;
    *slope = 0.0;
#pragma unroll 1
    for (int i = 0; i <= degree - order; ++i) {
        double factor = 1.0;
        for (int j = 0; j < order; ++j) factor *= degree - i - j;
        *slope = *slope * t + value;
        value = value * t + factor * polynomial[i];
    }
    return value;
}

__device__ __noinline__ double root_between(const double* polynomial, int degree, int order, double low,
                               double high, bool falling) {
    double t = 0.5 * (low + high);
    for (int i = 0; i < ROOT_STEPS; ++i) {
        double slope, value = evaluate(polynomial, degree, order, t, &slope);
        ((value > 0.0) == falling ? low : high) = t;
        double step = t - value / slope;
        if (!(low < step && step < high)) step = 0.5 * (low + high);
        if (fabs(step - t) <= 4e-16 * high) return step;
        t = step;
    }
    return t;
}

// The largest positive root of a monic polynomial, or 0: the roots of all its derivatives are found
// in turn, each between two of the last. None lies beyond Fujiwara's (1916) bound.
__device__ __noinline__ double largest_root(const double* polynomial, int degree) {
    while (degree > 0 && polynomial[degree] == 0.0) --degree;  // a root at 0 is not positive
    double bound = 0.0, slope;
    for (int i = 1; i <= degree; ++i) {
        if (!isfinite(polynomial[i])) return 0.0;
        bound = fmax(bound, 2.0 * pow(fabs(polynomial[i]), 1.0 / i));
    }
    double edges[10] = {0.0, bound};
    int inner = 0;
#pragma unroll 1
    for (int order = degree - 1; order >= 0; --order) {
        double found[10] = {};
        int count = 0;
        double before = evaluate(polynomial, degree, order, edges[0], &slope);
        for (int i = 0; i <= inner; ++i) {
            double after = evaluate(polynomial, degree, order, edges[i + 1], &slope);
            if ((before > 0.0) != (after > 0.0))
                found[++count] = root_between(polynomial, degree, order, edges[i], edges[i + 1],
                                              before > 0.0);
            before = after;
        }
        inner = count;
        found[count + 1] = bound;
        for (int i = 0; i < 10; ++i) edges[i] = found[i];
    }
    return edges[inner];
}

// One thread a camera.
template <typename T>
__global__ void distortion_reach(const T* coefficients, T* out, long long cameras) {
    long long camera = blockIdx.x * (long long)BLOCK + threadIdx.x;
    if (camera >= cameras) return;
    double k[COEFFICIENTS];
    load(coefficients + camera * COEFFICIENTS, k);
    double numerator[5] = {1.0, k[0], k[1], k[4], k[12]}, denominator[4] = {1.0, k[5], k[6], k[7]};
    double rising[8] = {};
    for (int i = 0; i < 5; ++i)
        for (int j = 0; j < 4; ++j)
            rising[i + j] += (1.0 + 2.0 * i - 2.0 * j) * numerator[i] * denominator[j];
    double inverse = fmax(largest_root(rising, 7), largest_root(denominator, 3));
    out[camera] = T(1.0 / sqrt(inverse));
}
