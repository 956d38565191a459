#include "cpu/candidate_loops.hpp"

#include "math/softmax.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t W = kNoiseLanes;

template <class R, bool kScaled, Bound bound>
UNSTUCK_INLINE void place(const RegionView<R>& region, int64_t begin, int64_t n, R sigma,
                          const float* __restrict eps, R* __restrict x) {
  const R* __restrict mean = region.mean + begin;
  const R* __restrict scale = kScaled ? region.scale + begin : region.mean;
  const R* __restrict low = bound != Bound::none ? region.low + begin : region.mean;
  const R* __restrict high = bound != Bound::none ? region.high + begin : region.mean;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    x[i] = placed<bound>(mean[i], kScaled ? sigma * scale[i] : sigma, R(eps[i]), low[i], high[i]);
}

template <class R, bool kScaled, Bound bound>
UNSTUCK_INLINE void place(const RegionView<R>& region, const R* __restrict sigmas,
                          const float* __restrict eps, R* __restrict x) {
  for (int64_t c = 0; c < region.dim; ++c) {
    const R mean = region.mean[c], scale = kScaled ? region.scale[c] : R(1);
    const R low = bound != Bound::none ? region.low[c] : R(0);
    const R high = bound != Bound::none ? region.high[c] : R(0);
#pragma omp simd
    for (int64_t l = 0; l < W; ++l)
      x[c * W + l] = placed<bound>(mean, kScaled ? sigmas[l] * scale : sigmas[l], R(eps[c * W + l]),
                                   low, high);
  }
}

// Calls place() as the region wants it.
template <class R, class... Args>
UNSTUCK_INLINE void place_any(const RegionView<R>& region, Args... args) {
  switch (region.bound) {
    case Bound::none:
      return region.scale ? place<R, true, Bound::none>(region, args...)
                          : place<R, false, Bound::none>(region, args...);
    case Bound::clip:
      return region.scale ? place<R, true, Bound::clip>(region, args...)
                          : place<R, false, Bound::clip>(region, args...);
    case Bound::reflect:
      return region.scale ? place<R, true, Bound::reflect>(region, args...)
                          : place<R, false, Bound::reflect>(region, args...);
  }
}

template <class R>
UNSTUCK_INLINE void noise_sums(int64_t n, const float* __restrict eps, R b, R q,
                               R* __restrict shift, R* __restrict square) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const R e = R(eps[i]);
    shift[i] += b * e;
    square[i] += q * (e * e);
  }
}

template <class R>
UNSTUCK_INLINE void point_sums(int64_t n, const R* __restrict x, const R* __restrict mean, R a,
                               R* __restrict shift, R* __restrict square) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const R way = x[i] - mean[i];
    shift[i] += a * way;
    square[i] += a * (way * way);
  }
}

template <class R>
UNSTUCK_INLINE void noise_sums_column(int64_t dim, const float* __restrict eps,
                                      const R* __restrict b, const R* __restrict q,
                                      R* __restrict shift, R* __restrict square) {
  for (int64_t c = 0; c < dim * W; c += W) {
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) {
      const R e = R(eps[c + l]);
      shift[c + l] += b[l] * e;
      square[c + l] += q[l] * (e * e);
    }
  }
}

template <class R>
UNSTUCK_INLINE void point_sums_column(int64_t dim, const R* __restrict x, const R* __restrict mean,
                                      const R* __restrict a, R* __restrict shift,
                                      R* __restrict square) {
  for (int64_t c = 0; c < dim; ++c) {
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) {
      const R way = x[c * W + l] - mean[c];
      shift[c * W + l] += a[l] * way;
      square[c * W + l] += a[l] * (way * way);
    }
  }
}

template <class R>
UNSTUCK_INLINE double softmax(int64_t n, const R* __restrict losses, double beta,
                              double* __restrict weights, double& sum) {
  OnlineSoftmax found;
  for (int64_t i = 0; i < n; ++i)
    if (is_finite(losses[i])) found.raise(-beta * double(losses[i]));
  sum = 0;
  if (found.empty) {
    for (int64_t i = 0; i < n; ++i) weights[i] = 0;
    return 0;
  }
  const double best = found.best;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const double weight = exp_negative(-beta * double(losses[i]) - best);
    weights[i] = is_finite(losses[i]) ? weight : 0;
  }
  double square = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += weights[i];
    square += weights[i] * weights[i];
  }
  return sum * sum / square;
}

}  // namespace

// One compiled function a case, so that the loader can choose its instruction set.
namespace entry {
#define UNSTUCK_LOOPS(R)                                                                          \
  UNSTUCK_CLONES void place_row_##R(const RegionView<R>& region, int64_t begin, int64_t n,        \
                                    R sigma, const float* eps, R* x) {                            \
    place_any(region, begin, n, sigma, eps, x);                                                   \
  }                                                                                               \
  UNSTUCK_CLONES void place_column_##R(const RegionView<R>& region, const R* sigmas,              \
                                       const float* eps, R* x) {                                  \
    place_any(region, sigmas, eps, x);                                                            \
  }                                                                                               \
  UNSTUCK_CLONES void add_noise_##R(int64_t n, const float* eps, R b, R q, R* shift, R* square) { \
    noise_sums(n, eps, b, q, shift, square);                                                      \
  }                                                                                               \
  UNSTUCK_CLONES void add_points_##R(int64_t n, const R* x, const R* mean, R a, R* shift,         \
                                     R* square) {                                                 \
    point_sums(n, x, mean, a, shift, square);                                                     \
  }                                                                                               \
  UNSTUCK_CLONES void add_noise_column_##R(int64_t dim, const float* eps, const R* b, const R* q, \
                                           R* shift, R* square) {                                 \
    noise_sums_column(dim, eps, b, q, shift, square);                                             \
  }                                                                                               \
  UNSTUCK_CLONES void add_points_column_##R(int64_t dim, const R* x, const R* mean, const R* a,   \
                                            R* shift, R* square) {                                \
    point_sums_column(dim, x, mean, a, shift, square);                                            \
  }                                                                                               \
  UNSTUCK_CLONES double softmax_##R(int64_t n, const R* losses, double beta, double* weights,     \
                                    double& sum) {                                                \
    return softmax(n, losses, beta, weights, sum);                                                \
  }
UNSTUCK_LOOPS(float)
UNSTUCK_LOOPS(double)
#undef UNSTUCK_LOOPS
}  // namespace entry

#define UNSTUCK_NAMED(R)                                                                           \
  template <>                                                                                      \
  void place_row(const RegionView<R>& region, int64_t begin, int64_t n, R sigma, const float* eps, \
                 R* x) {                                                                           \
    entry::place_row_##R(region, begin, n, sigma, eps, x);                                         \
  }                                                                                                \
  template <>                                                                                      \
  void place_column(const RegionView<R>& region, const R* sigmas, const float* eps, R* x) {        \
    entry::place_column_##R(region, sigmas, eps, x);                                               \
  }                                                                                                \
  template <>                                                                                      \
  void add_noise(int64_t n, const float* eps, R b, R q, R* shift, R* square) {                     \
    entry::add_noise_##R(n, eps, b, q, shift, square);                                             \
  }                                                                                                \
  template <>                                                                                      \
  void add_points(int64_t n, const R* x, const R* mean, R a, R* shift, R* square) {                \
    entry::add_points_##R(n, x, mean, a, shift, square);                                           \
  }                                                                                                \
  template <>                                                                                      \
  void add_noise_column(int64_t dim, const float* eps, const R* b, const R* q, R* shift,           \
                        R* square) {                                                               \
    entry::add_noise_column_##R(dim, eps, b, q, shift, square);                                    \
  }                                                                                                \
  template <>                                                                                      \
  void add_points_column(int64_t dim, const R* x, const R* mean, const R* a, R* shift,             \
                         R* square) {                                                              \
    entry::add_points_column_##R(dim, x, mean, a, shift, square);                                  \
  }                                                                                                \
  template <>                                                                                      \
  double softmax_weights(int64_t n, const R* losses, double beta, double* weights, double& sum) {  \
    return entry::softmax_##R(n, losses, beta, weights, sum);                                      \
  }
UNSTUCK_NAMED(float)
UNSTUCK_NAMED(double)
#undef UNSTUCK_NAMED

}  // namespace unstuck::cpu
