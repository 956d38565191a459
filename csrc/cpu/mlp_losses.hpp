// Sums of losses over a panel of outputs z [outputs, kPanel], a row of data in each lane, and the
// slopes in their place where these are wanted.
#pragma once
#include <algorithm>
#include <cmath>

#include "cpu/products.hpp"
#include "math/mlp.hpp"

namespace unstuck::cpu {

template <class R>
struct LossPanel {
  R* z;                   // [outputs, kPanel]
  const R* y;             // [outputs, kPanel], or
  const int64_t* labels;  // [rows]
  int64_t outputs, rows;  // of the lanes only the first `rows` are data
  R factor;
  bool slopes;
};

template <class R>
UNSTUCK_INLINE double squared_panel(const LossPanel<R>& p) {
  constexpr int64_t N = kPanel<R>;
  R sums[N] = {};
  for (int64_t i = 0; i < p.outputs * N; i += N)
#pragma omp simd
    for (int64_t l = 0; l < N; ++l) {
      const R gap = p.z[i + l] - p.y[i + l];
      sums[l] += gap * gap;
      if (p.slopes) p.z[i + l] = R(2) * p.factor * gap;
    }
  double total = 0;
  for (int64_t l = 0; l < p.rows; ++l) total += double(sums[l]);
  return total;
}

template <class R>
UNSTUCK_INLINE double bce_panel(const LossPanel<R>& p) {
  constexpr int64_t N = kPanel<R>;
  double total = 0;
  for (int64_t first = 0; first < p.outputs; first += kProduct) {
    const int64_t last = std::min(p.outputs, first + kProduct);
    R linear[N] = {}, product[N] = {};
    for (int64_t i = first * N; i < last * N; i += N)
#pragma omp simd
      for (int64_t l = 0; l < N; ++l) {
        const R z = p.z[i + l], y = p.y[i + l];
        linear[l] += bce_linear(z, y);
        product[l] = bce_product(product[l], z);
        if (p.slopes) p.z[i + l] = p.factor * bce_slope(z, y);
      }
    for (int64_t l = 0; l < p.rows; ++l)
      total += double(linear[l]) + std::log1p(double(product[l]));
  }
  return total;
}

// A class that does not exist has no loss.
template <class R>
UNSTUCK_INLINE double cross_entropy_panel(const LossPanel<R>& p) {
  constexpr int64_t N = kPanel<R>;
  R top[N], sum[N];
  double total = 0;
  const auto known = [&](int64_t l) { return uint64_t(p.labels[l]) < uint64_t(p.outputs); };
  for (int64_t l = 0; l < p.rows; ++l)
    total -= known(l) ? double(p.z[p.labels[l] * N + l]) : std::nan("");
  std::copy_n(p.z, N, top);
  for (int64_t i = N; i < p.outputs * N; i += N)
#pragma omp simd
    for (int64_t l = 0; l < N; ++l) top[l] = p.z[i + l] > top[l] ? p.z[i + l] : top[l];
  std::fill_n(sum, N, R(0));
  for (int64_t i = 0; i < p.outputs * N; i += N)
#pragma omp simd
    for (int64_t l = 0; l < N; ++l) {
      const R x = p.z[i + l] - top[l], e = exp_negative(x) + (x - x);  // NaN stays
      sum[l] += e;
      if (p.slopes) p.z[i + l] = e;
    }
  for (int64_t l = 0; l < p.rows; ++l) total += double(top[l]) + std::log(double(sum[l]));
  if (p.slopes) {
    for (int64_t l = 0; l < N; ++l) sum[l] = p.factor / sum[l];
    for (int64_t i = 0; i < p.outputs * N; i += N)
#pragma omp simd
      for (int64_t l = 0; l < N; ++l) p.z[i + l] *= sum[l];
    for (int64_t l = 0; l < p.rows; ++l)
      if (known(l)) p.z[p.labels[l] * N + l] -= p.factor;
  }
  return total;
}

}  // namespace unstuck::cpu
