#include "cpu/candidate_loops.hpp"

#include <algorithm>
#include <limits>

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

template <int kRows, class R>
UNSTUCK_INLINE void noise_sums(int64_t n, const float* const* eps, const R* b, const R* q,
                               R* __restrict shift, R* __restrict square) {
  const float* from[kRows];
  R by[kRows], by_square[kRows];
  for (int k = 0; k < kRows; ++k) {
    from[k] = eps[k];
    by[k] = b[k];
    by_square[k] = q[k];
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    R sum = shift[i], sum_square = square[i];
    for (int k = 0; k < kRows; ++k) {
      const R e = R(from[k][i]);
      sum += by[k] * e;
      sum_square += by_square[k] * (e * e);
    }
    shift[i] = sum;
    square[i] = sum_square;
  }
}
template <class R>
UNSTUCK_INLINE void noise_sums(int64_t n, int rows, const float* const* eps, const R* b, const R* q,
                               R* shift, R* square) {
  if (rows == kRowsTogether) return noise_sums<kRowsTogether>(n, eps, b, q, shift, square);
  for (int k = 0; k < rows; ++k) noise_sums<1>(n, eps + k, b + k, q + k, shift, square);
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
UNSTUCK_INLINE void fold(int64_t dim, const R* __restrict x, double* __restrict out) {
  for (int64_t c = 0; c < dim; ++c) {
    double sums[W / 2];
#pragma omp simd
    for (int64_t l = 0; l < W / 2; ++l)
      sums[l] = double(x[c * W + l]) + double(x[c * W + W / 2 + l]);
    out[c] +=
        ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
}

template <class R>
UNSTUCK_INLINE double softmax(int64_t n, const R* __restrict losses, double* __restrict weights,
                              OnlineSoftmax& found) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  constexpr int64_t kSums = 16;  // beside each other, whatever the vector width
  double lows[kSums];
  for (double& low : lows) low = kNone;
  const int64_t whole = n / kSums * kSums;
  const auto seen = [&](int64_t i) { return is_finite(losses[i]) ? double(losses[i]) : kNone; };
  for (int64_t i = 0; i < whole; i += kSums)
#pragma omp simd
    for (int64_t l = 0; l < kSums; ++l) {
      const double loss = seen(i + l);
      lows[l] = loss < lows[l] ? loss : lows[l];
    }
  for (int64_t i = whole; i < n; ++i) lows[0] = std::min(lows[0], seen(i));
  const double low = *std::min_element(lows, lows + kSums);
  const bool any = low < kNone;
  const double factor = any ? found.raise(-low) : 1;
  const double best = -found.best, beta = found.scale;  // of the losses
  double sums[kSums] = {}, squares[kSums] = {};
  const auto add = [&](int64_t i, int64_t l) {
    const double weight = exp_negative(scaled_difference(-beta, losses[i], best));
    weights[i] = is_finite(losses[i]) ? weight : 0;
    sums[l] += weights[i];
    squares[l] += weights[i] * weights[i];
  };
  for (int64_t i = 0; i < whole; i += kSums)
#pragma omp simd
    for (int64_t l = 0; l < kSums; ++l) add(i + l, l);
  for (int64_t i = whole; i < n; ++i) add(i, i - whole);
  for (int64_t l = 0; l < kSums; ++l) {
    found.sum += sums[l];
    found.square += squares[l];
  }
  return factor;
}

}  // namespace

// One compiled function a case, so that the loader can choose its instruction set.
namespace entry {
#define UNSTUCK_LOOPS(R)                                                                           \
  UNSTUCK_CLONES void place_row_##R(const RegionView<R>& region, int64_t begin, int64_t n,         \
                                    R sigma, const float* eps, R* x) {                             \
    place_any(region, begin, n, sigma, eps, x);                                                    \
  }                                                                                                \
  UNSTUCK_CLONES void place_column_##R(const RegionView<R>& region, const R* sigmas,               \
                                       const float* eps, R* x) {                                   \
    place_any(region, sigmas, eps, x);                                                             \
  }                                                                                                \
  UNSTUCK_CLONES void add_noise_##R(int64_t n, int rows, const float* const* eps, const R* b,      \
                                    const R* q, R* shift, R* square) {                             \
    noise_sums(n, rows, eps, b, q, shift, square);                                                 \
  }                                                                                                \
  UNSTUCK_CLONES void add_points_##R(int64_t n, const R* x, const R* mean, R a, R* shift,          \
                                     R* square) {                                                  \
    point_sums(n, x, mean, a, shift, square);                                                      \
  }                                                                                                \
  UNSTUCK_CLONES void add_noise_column_##R(int64_t dim, const float* eps, const R* b, const R* q,  \
                                           R* shift, R* square) {                                  \
    noise_sums_column(dim, eps, b, q, shift, square);                                              \
  }                                                                                                \
  UNSTUCK_CLONES void add_points_column_##R(int64_t dim, const R* x, const R* mean, const R* a,    \
                                            R* shift, R* square) {                                 \
    point_sums_column(dim, x, mean, a, shift, square);                                             \
  }                                                                                                \
  UNSTUCK_CLONES void fold_column_##R(int64_t dim, const R* x, double* out) { fold(dim, x, out); } \
  UNSTUCK_CLONES void rescale_##R(int64_t n, R factor, R* x) {                                     \
    for (int64_t i = 0; i < n; ++i) x[i] = factor == R(0) ? R(0) : x[i] * factor;                  \
  }                                                                                                \
  UNSTUCK_CLONES void add_scaled_##R(int64_t n, R factor, const R* __restrict x,                   \
                                     R* __restrict to) {                                           \
    for (int64_t i = 0; i < n; ++i) to[i] += factor * x[i];                                        \
  }                                                                                                \
  UNSTUCK_CLONES void rescale_each_##R(int64_t n, const R* __restrict by, R* __restrict shift,     \
                                       R* __restrict square) {                                     \
    for (int64_t i = 0; i < n; ++i) {                                                              \
      shift[i] *= by[i];                                                                           \
      square[i] *= by[i] * by[i];                                                                  \
    }                                                                                              \
  }                                                                                                \
  UNSTUCK_CLONES double softmax_##R(int64_t n, const R* losses, double* weights,                   \
                                    OnlineSoftmax& found) {                                        \
    return softmax(n, losses, weights, found);                                                     \
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
  void add_noise(int64_t n, int rows, const float* const* eps, const R* b, const R* q, R* shift,   \
                 R* square) {                                                                      \
    entry::add_noise_##R(n, rows, eps, b, q, shift, square);                                       \
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
  void fold_column(int64_t dim, const R* x, double* out) {                                         \
    entry::fold_column_##R(dim, x, out);                                                           \
  }                                                                                                \
  template <>                                                                                      \
  void rescale(int64_t n, R factor, R* x) {                                                        \
    entry::rescale_##R(n, factor, x);                                                              \
  }                                                                                                \
  template <>                                                                                      \
  void add_scaled(int64_t n, R factor, const R* x, R* to) {                                        \
    entry::add_scaled_##R(n, factor, x, to);                                                       \
  }                                                                                                \
  template <>                                                                                      \
  void rescale_each(int64_t n, const R* by, R* shift, R* square) {                                 \
    entry::rescale_each_##R(n, by, shift, square);                                                 \
  }                                                                                                \
  template <>                                                                                      \
  double softmax_weights(int64_t n, const R* losses, double* weights, OnlineSoftmax& found) {      \
    return entry::softmax_##R(n, losses, weights, found);                                          \
  }
UNSTUCK_NAMED(float)
UNSTUCK_NAMED(double)
#undef UNSTUCK_NAMED

}  // namespace unstuck::cpu
