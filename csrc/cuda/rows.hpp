// Rows of data on the device: how they are cut, their products with vectors, their losses.
#pragma once
#include <algorithm>

#include "core/block.hpp"
#include "math/mlp.hpp"
#include "objective_terms.hpp"

namespace unstuck::cuda {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kRows = 4;                // that a warp takes at once
constexpr int64_t kFoldColumns = 2048;  // whose products are summed before they become float64
constexpr int64_t kMostBlocks = 1024;   // that leave parts

// How things are cut into at most `most` parts of a multiple of `unit`.
struct Parts {
  int64_t count, length;
  Parts(int64_t n, int64_t unit, int64_t most = kMostBlocks) {
    const int64_t units = std::max<int64_t>((n + unit - 1) / unit, 1);
    length = (units + most - 1) / most * unit;
    count = std::max<int64_t>((n + length - 1) / length, 1);
  }
};

__device__ inline float log_one_plus(float x) { return log1pf(x); }
__device__ inline double log_one_plus(double x) { return log1p(x); }
// The binary cross-entropy of one row.
template <class T>
__device__ inline double bce_row(T z, T y) {
  return double(bce_linear(z, y) + log_one_plus(bce_product(T(0), z)));
}

// products[v][r] is the product of row first + r with vectors[v], in every lane of the warp.
template <int kVectors, class T>
__device__ void multiply_rows(const Regression& o, const T* const (&vectors)[kVectors],
                              int64_t first, int64_t end, double (&products)[kVectors][kRows]) {
  const int lane = int(threadIdx.x) % 32;
  const T* row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t i = first + r < end ? first + r : end - 1;  // reads a row twice, uses it once
    row[r] = static_cast<const T*>(o.x) + i * o.stride;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) products[v][r] = 0;
  }
  for (int64_t start = 0; start < o.dim; start += kFoldColumns) {
    const int64_t stop = start + kFoldColumns < o.dim ? start + kFoldColumns : o.dim;
    T sums[kVectors][kRows] = {};
#pragma unroll 2
    for (int64_t c = start + lane; c < stop; c += 32) {
      T a[kVectors];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) a[v] = vectors[v][c];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const T x = row[r][c];
#pragma unroll
        for (int v = 0; v < kVectors; ++v) sums[v][r] += x * a[v];
      }
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
#pragma unroll
      for (int r = 0; r < kRows; ++r) products[v][r] += double(sums[v][r]);
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
#pragma unroll
    for (int r = 0; r < kRows; ++r) products[v][r] = __shfl_sync(kAll, warp_sum(products[v][r]), 0);
}

}  // namespace unstuck::cuda
