#include "cpu/landscapes.hpp"

#include "math/landscape_slopes.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t W = kNoiseLanes;

template <class F, class R>
UNSTUCK_INLINE void row(const LandscapeParameters& parameters, const R* __restrict x, int64_t begin,
                        int64_t n, LandscapeSums& sums) {
  const F f{{parameters}};
  constexpr R kStart = F::kProduct ? R(1) : R(0);
  R a[W] = {}, b[W];
  for (int64_t l = 0; l < W; ++l) b[l] = kStart;
  const auto index = [&](int64_t i) { return R(begin + i + (F::kPairs ? 0 : 1)); };
  const auto before = [&](int64_t i) { return F::kPairs ? x[i - 1] : R(0); };
  int64_t i = F::kPairs && begin == 0 ? 1 : 0;
  for (; i + W <= n; i += W) {
    const R base = index(i);
#pragma omp simd
    for (int64_t l = 0; l < W; ++l)
      f.term(before(i + l), x[i + l], base + R(int32_t(l)), a[l], b[l]);
  }
  for (int64_t l = 0; i + l < n; ++l) f.term(before(i + l), x[i + l], index(i + l), a[l], b[l]);
  double total = 0, other = double(kStart);
  for (int64_t l = 0; l < W; ++l) {
    total += double(a[l]);
    other = F::kProduct ? other * double(b[l]) : other + double(b[l]);
  }
  sums.a += total;
  sums.b = F::kProduct ? sums.b * other : sums.b + other;
}

template <class F, class R>
UNSTUCK_INLINE void column(const LandscapeParameters& parameters, const R* __restrict x,
                           int64_t dim, R* __restrict losses) {
  const F f{{parameters}};
  R a[W] = {}, b[W];
  for (int64_t l = 0; l < W; ++l) b[l] = F::kProduct ? R(1) : R(0);
  for (int64_t c = F::kPairs ? 1 : 0; c < dim; ++c) {
    const R* __restrict here = x + c * W;
    const R* __restrict before = F::kPairs ? here - W : here;
    const R index = R(F::kPairs ? c : c + 1);
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) f.term(before[l], here[l], index, a[l], b[l]);
  }
  const R* __restrict last = x + (dim - 1) * W;
#pragma omp simd
  for (int64_t l = 0; l < W; ++l) losses[l] = f.finish(a[l], b[l], x[l], last[l], double(dim));
}

template <class F, class R>
UNSTUCK_INLINE void gradient(const LandscapeParameters& parameters, const R* __restrict x,
                             int64_t dim, const LandscapeSums& sums, R* __restrict g) {
  const Slope<F> slope{{parameters}};
  if constexpr (F::kPairs) {
#pragma omp simd
    for (int64_t i = 0; i < dim - 1; ++i) g[i] = slope.left(x[i], x[i + 1]);
    g[dim - 1] = R(0);
#pragma omp simd
    for (int64_t i = 1; i < dim; ++i) g[i] += slope.right(x[i - 1], x[i]);
  } else {
    double p = 0, q = 0;
    slope.prepare(sums.a, sums.b, double(dim), p, q);
    const R shared = R(p), other = R(q);
    for (int64_t i = 0; i < dim; i += W) {
      const R base = R(i + 1);
      const int64_t n = dim - i < W ? dim - i : W;
#pragma omp simd
      for (int64_t l = 0; l < n; ++l)
        g[i + l] = slope.at(x[i + l], base + R(int32_t(l)), shared, other);
    }
  }
  slope.ends(x[0], x[dim - 1], g[0], g[dim - 1]);
}

template <class F, class R>
R finish(const LandscapeParameters& parameters, const LandscapeSums& sums, R first, R last,
         int64_t dim) {
  return R(F{{parameters}}.template finish<double>(sums.a, sums.b, double(first), double(last),
                                                   double(dim)));
}

}  // namespace

// One compiled function a case, so that the loader can choose its instruction set.
namespace entry {
#define UNSTUCK_KERNELS(F, R)                                                                 \
  UNSTUCK_CLONES void F##_row_##R(const LandscapeParameters& p, const R* x, int64_t begin,    \
                                  int64_t n, LandscapeSums& sums) {                           \
    row<F, R>(p, x, begin, n, sums);                                                          \
  }                                                                                           \
  UNSTUCK_CLONES void F##_column_##R(const LandscapeParameters& p, const R* x, int64_t dim,   \
                                     R* losses) {                                             \
    column<F, R>(p, x, dim, losses);                                                          \
  }                                                                                           \
  UNSTUCK_CLONES void F##_gradient_##R(const LandscapeParameters& p, const R* x, int64_t dim, \
                                       const LandscapeSums& sums, R* g) {                     \
    gradient<F, R>(p, x, dim, sums, g);                                                       \
  }
#define UNSTUCK_BOTH(F) UNSTUCK_KERNELS(F, float) UNSTUCK_KERNELS(F, double)
UNSTUCK_LANDSCAPES(UNSTUCK_BOTH)
#undef UNSTUCK_BOTH
#undef UNSTUCK_KERNELS
}  // namespace entry

template <>
const LandscapeKernels<float>& landscape_kernels<float>(int landscape) {
#define UNSTUCK_ROW(F)           \
  {entry::F##_row_float,         \
   finish<F, float>,             \
   {0, F::kProduct ? 1.0 : 0.0}, \
   entry::F##_column_float,      \
   entry::F##_gradient_float},
  static const LandscapeKernels<float> table[kLandscapes] = {UNSTUCK_LANDSCAPES(UNSTUCK_ROW)};
#undef UNSTUCK_ROW
  return table[landscape];
}

template <>
const LandscapeKernels<double>& landscape_kernels<double>(int landscape) {
#define UNSTUCK_ROW(F)           \
  {entry::F##_row_double,        \
   finish<F, double>,            \
   {0, F::kProduct ? 1.0 : 0.0}, \
   entry::F##_column_double,     \
   entry::F##_gradient_double},
  static const LandscapeKernels<double> table[kLandscapes] = {UNSTUCK_LANDSCAPES(UNSTUCK_ROW)};
#undef UNSTUCK_ROW
  return table[landscape];
}

}  // namespace unstuck::cpu
