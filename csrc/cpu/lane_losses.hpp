// Losses of sixteen candidates beside each other, a row of data at a time.
#pragma once
#include <cmath>

#include "math/mlp.hpp"
#include "math/philox.hpp"

namespace unstuck::cpu {

// Sums of binary cross-entropies; the logarithm is of the product of many rows.
template <class R>
struct BceSums {
  static constexpr int64_t W = kNoiseLanes;
  R linear[W] = {}, product[W] = {};
  int rows = 0;

  UNSTUCK_INLINE void add(const R* z, R y, double* losses) {
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) {
      linear[l] += bce_linear(z[l], y);
      product[l] = bce_product(product[l], z[l]);
    }
    if (++rows == kProduct) fold(losses);
  }
  UNSTUCK_INLINE void fold(double* losses) {
    for (int64_t l = 0; l < W; ++l) {
      losses[l] += double(linear[l]) + std::log1p(double(product[l]));
      linear[l] = product[l] = 0;
    }
    rows = 0;
  }
};

// out[r][l] = bias[l] + sum_f weights[f][l] rows[r][f]: kRows rows meet sixteen weight vectors.
template <int kRows, class R>
UNSTUCK_INLINE void multiply_lanes(const R* weights, const R* bias, int64_t n, const R* const* rows,
                                   R* out) {
  constexpr int64_t W = kNoiseLanes;
  R sums[kRows][W];
  for (int r = 0; r < kRows; ++r)
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) sums[r][l] = bias[l];
  for (int64_t f = 0; f < n; ++f) {
    const R* w = weights + f * W;
    for (int r = 0; r < kRows; ++r) {
      const R x = rows[r][f];
#pragma omp simd
      for (int64_t l = 0; l < W; ++l) sums[r][l] += w[l] * x;
    }
  }
  for (int r = 0; r < kRows; ++r)
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) out[r * W + l] = sums[r][l];
}

}  // namespace unstuck::cpu
