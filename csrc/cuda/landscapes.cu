// The landscapes at points that are stored, their gradients, and the sums of both kinds of points.
//
//   values      a warp a slice of a point (landscape_sums.hpp)
//   finish      a thread a point: adds its slices up, and prepares what its gradient shares
//   slopes      a warp 128 coordinates of a point
#include "cuda/landscapes.hpp"

#include "cuda/landscape_sums.hpp"
#include "math/landscape_slopes.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t threads) { return unsigned((threads + kThreads - 1) / kThreads); }

__host__ __device__ int64_t tiles_of(int64_t dim) {
  return (dim + LandscapeSlices::kWarp - 1) / LandscapeSlices::kWarp;
}

template <class F>
__device__ Slope<F> slope_of(const F& f) {
  return Slope<F>{{f.parameters}};
}

template <class F>
__device__ double finish_point(const F& f, LandscapePart& sum, double dim, bool prepared) {
  const double value = f.template finish<double>(sum.a, sum.b, sum.first, sum.last, dim);
  if constexpr (F::kSecond)
    if (prepared) slope_of(f).prepare(sum.a, sum.b, dim, sum.first, sum.last);
  return value;
}

// One kernel for all landscapes: its work is small.
template <class R>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(LandscapeView objective, LandscapeRows rows, LandscapePart* parts, bool prepared,
                  R* values) {
  const int64_t slices = LandscapeSlices(rows.dim).count;
  const int64_t point = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t to = rows.first * rows.share + point;
  if (point >= rows.count * rows.share || to >= rows.points) return;
  LandscapePart* mine = parts + point / rows.share * slices * rows.most + point % rows.share;
  LandscapePart sum{0, 0, 0, 0};
  double product = 1;
#pragma unroll 1
  for (int64_t s = 0; s < slices; ++s) {
    const LandscapePart part = mine[s * rows.most];
    sum.a += part.a;
    sum.b += part.b;
    product *= part.b;
    sum.first += part.first;
    sum.last += part.last;
  }
  double value = sum.a;
  int number = 0;
  const auto finish = [&](const auto& f) {
    using F = std::decay_t<decltype(f)>;
    if constexpr (F::kSecond || F::kEnds)
      if (objective.landscape == number) {
        if (F::kProduct) sum.b = product;
        value = finish_point(f, sum, double(rows.dim), prepared);
      }
    ++number;
  };
#define UNSTUCK_CASE(F) finish(F{{objective.parameters}});
  UNSTUCK_LANDSCAPES(UNSTUCK_CASE)
#undef UNSTUCK_CASE
  values[to] = R(value);
  if (prepared) *mine = sum;
}

// The slope of any planar landscape.
struct PlanarSlope {
  LandscapeView objective;
  template <class R>
  __device__ R left(R u, R v) const {
    R g = R(0);
    with_planar(objective, [&](const auto& f) { g = slope_of(f).left(u, v); });
    return g;
  }
  template <class R>
  __device__ R right(R u, R v) const {
    R g = R(0);
    with_planar(objective, [&](const auto& f) { g = slope_of(f).right(u, v); });
    return g;
  }
};

// S is the slope of F, or of all that have F's flags.
template <class F, class S, class R>
__global__ void __launch_bounds__(kThreads)
    slope_kernel(S slope, const R* points, int64_t dim, int64_t rows, const LandscapePart* parts,
                 R* gradients) {
  const int64_t tiles = tiles_of(dim);
  const int64_t item = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (item >= rows * tiles) return;
  const int64_t row = item / tiles, begin = item % tiles * LandscapeSlices::kWarp;
  const R* x = points + row * dim;
  R p = R(0), q = R(0);
  if (F::kSecond) {
    const LandscapePart& sum = parts[row * LandscapeSlices(dim).count];
    p = R(sum.first);
    q = R(sum.last);
  }
  int64_t end = begin + LandscapeSlices::kWarp;
  if (end > dim) end = dim;
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x % 32; i < end; i += 32) {
    const R here = x[i];
    R g = R(0);
    if constexpr (F::kPairs) {
      if (i < dim - 1) g = slope.left(here, x[i + 1]);
      if (i > 0) g += slope.right(x[i - 1], here);
    } else {
      g = slope.at(here, R(i + 1), p, q);
    }
    if constexpr (F::kEnds)
      if (i == 0 || i == dim - 1) {
        R first = R(0), last = R(0);
        slope.ends(x[0], x[dim - 1], first, last);
        if (i == 0) g += first;
        if (i == dim - 1) g += last;
      }
    gradients[row * dim + i] = g;
  }
}

template <class F, class R>
void launch_slopes(const LandscapeView& objective, const R* points, int64_t dim, int64_t rows,
                   const LandscapePart* parts, R* gradients, cudaStream_t stream) {
  using Family = std::conditional_t<F::kPlanar, Planar, F>;
  using S = std::conditional_t<F::kPlanar, PlanarSlope, Slope<F>>;
  S slope;
  if constexpr (F::kPlanar)
    slope.objective = objective;
  else
    slope.parameters = objective.parameters;
  GPU_LAUNCH((slope_kernel<Family, S, R>), blocks_for(rows * tiles_of(dim) * 32), kThreads, 0,
             stream, slope, points, dim, rows, parts, gradients);
}

}  // namespace

template <class R>
int finish_landscapes(const LandscapeView& objective, const LandscapeRows& rows,
                      LandscapePart* parts, bool prepared, R* values, cudaStream_t stream) {
  GPU_LAUNCH(finish_kernel<R>, blocks_for(rows.count * rows.share), kThreads, 0, stream, objective,
             rows, parts, prepared, values);
  return int(cudaGetLastError());
}

int64_t landscape_values_workspace(int64_t dim, int64_t count) {
  return landscape_workspace(dim, count, 1);
}

template <class R>
int landscape_values(const LandscapeView& objective, const R* points, int64_t count, int64_t dim,
                     R* values, double* workspace, void* stream) {
  const StoredPoints<R> stored{points, nullptr, nullptr, dim, count, dim};
  return landscape_values<R>(objective, stored, values, workspace, stream);
}

template <class R>
int landscape_line(const LandscapeView& objective, const R* w, const R* d, const R* rates,
                   int64_t count, int64_t dim, R* values, double* workspace, void* stream) {
  const StoredPoints<R> stored{w, d, rates, dim, count, 0};
  return landscape_values<R>(objective, stored, values, workspace, stream);
}

int64_t landscape_gradients_workspace(int64_t dim, int64_t count) {
  return landscape_parts(dim, count, 1);
}

template <class R>
int landscape_gradients(const LandscapeView& objective, const R* points, int64_t count, int64_t dim,
                        R* values, R* gradients, double* workspace, void* stream) {
  using Launch = void (*)(const LandscapeView&, const R*, int64_t, int64_t, const LandscapePart*,
                          R*, cudaStream_t);
#define UNSTUCK_LAUNCHER(F) launch_slopes<F, R>,
  static const Launch table[] = {UNSTUCK_LANDSCAPES(UNSTUCK_LAUNCHER)};
#undef UNSTUCK_LAUNCHER
  const StoredPoints<R> stored{points, nullptr, nullptr, dim, count, dim};
  const auto s = static_cast<cudaStream_t>(stream);
  const auto slopes = [&](const LandscapeRows& rows, const LandscapePart* parts) {
    const int64_t at = rows.first * dim;
    table[objective.landscape](objective, points + at, dim, rows.count, parts, gradients + at, s);
    return int(cudaGetLastError());
  };
  return landscape_values(objective, stored, values, workspace, true, slopes, s);
}

#define UNSTUCK_NAMED(R)                                                                           \
  template int finish_landscapes(const LandscapeView&, const LandscapeRows&, LandscapePart*, bool, \
                                 R*, cudaStream_t);                                                \
  template int landscape_values(const LandscapeView&, const R*, int64_t, int64_t, R*, double*,     \
                                void*);                                                            \
  template int landscape_line(const LandscapeView&, const R*, const R*, const R*, int64_t,         \
                              int64_t, R*, double*, void*);                                        \
  template int landscape_gradients(const LandscapeView&, const R*, int64_t, int64_t, R*, R*,       \
                                   double*, void*);
UNSTUCK_NAMED(float)
UNSTUCK_NAMED(double)
#undef UNSTUCK_NAMED

}  // namespace unstuck::cuda
