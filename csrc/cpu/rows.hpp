// Inner products of the rows of a matrix with one or two vectors: the matrix is read once.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/macros.hpp"

namespace unstuck::cpu {

// A row-major matrix with any distance between its rows.
template <class T>
struct Matrix {
  const T* data;
  int64_t rows, columns, stride;
  UNSTUCK_INLINE const T* row(int64_t i) const { return data + i * stride; }
};

// Partial sums are kept in a fixed number of lanes whatever the vector width, and folded into
// doubles every kFoldColumns: every instruction set gets the same result.
constexpr int64_t kFoldColumns = 2048;

// out[v * kRows + i] = row(i) . vectors[v], for kRows rows.
template <int kRows, int kVectors, class T>
UNSTUCK_INLINE void dot_rows(const T* const* rows, int64_t n, const T* const* vectors,
                             double* out) {
  constexpr int64_t W = 64 / int64_t(sizeof(T));
  for (int k = 0; k < kRows * kVectors; ++k) out[k] = 0;
  for (int64_t start = 0; start < n; start += kFoldColumns) {
    const int64_t end = std::min(n, start + kFoldColumns), whole = start + (end - start) / W * W;
    T sums[kVectors * kRows][W] = {};
    for (int64_t i = start; i < whole; i += W)
      for (int v = 0; v < kVectors; ++v)
        for (int r = 0; r < kRows; ++r)
#pragma omp simd
          for (int64_t l = 0; l < W; ++l)
            sums[v * kRows + r][l] += rows[r][i + l] * vectors[v][i + l];
    for (int v = 0; v < kVectors; ++v)
      for (int r = 0; r < kRows; ++r) {
        for (int64_t i = whole; i < end; ++i)
          sums[v * kRows + r][i - whole] += rows[r][i] * vectors[v][i];
        double total = 0;
        for (int64_t l = 0; l < W; ++l) total += double(sums[v * kRows + r][l]);
        out[v * kRows + r] += total;
      }
  }
}

// The same for any number of rows: out[v * rows + i].
template <int kVectors, class T>
UNSTUCK_INLINE void dot_block(const Matrix<T>& x, int64_t first, int64_t rows,
                              const T* const* vectors, double* out) {
  constexpr int kTogether = 4;
  double sums[kTogether * kVectors];
  int64_t i = 0;
  for (; i + kTogether <= rows; i += kTogether) {
    const T* together[kTogether];
    for (int r = 0; r < kTogether; ++r) together[r] = x.row(first + i + r);
    dot_rows<kTogether, kVectors>(together, x.columns, vectors, sums);
    for (int v = 0; v < kVectors; ++v)
      for (int r = 0; r < kTogether; ++r) out[v * rows + i + r] = sums[v * kTogether + r];
  }
  for (; i < rows; ++i) {
    const T* const one = x.row(first + i);
    dot_rows<1, kVectors>(&one, x.columns, vectors, sums);
    for (int v = 0; v < kVectors; ++v) out[v * rows + i] = sums[v];
  }
}

}  // namespace unstuck::cpu
