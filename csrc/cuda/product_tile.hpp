// Products of two matrices that are read, or made, a tile at a time.
#pragma once
#include "core/gpu.hpp"

namespace unstuck::cuda {

constexpr int kProductThreads = 256;
constexpr int kProductRows = 128, kProductColumns = 64;  // of a block
constexpr int kRowsOfThread = 8, kColumnsOfThread = 4;
template <class R>
constexpr int kProductDepth = 64 / int(sizeof(R));  // of a stage

// The rows and the columns of a thread: four neighbours each.
__device__ inline int product_row(int r) {
  return int(threadIdx.x) / 16 * 4 + r % 4 + r / 4 * (kProductRows / 2);
}
__device__ inline int product_column(int c) { return int(threadIdx.x) % 16 * 4 + c; }

template <class R>
struct ProductTile {
  alignas(16) R rows[kProductDepth<R>][kProductRows + 4];
  alignas(16) R columns[kProductDepth<R>][kProductColumns + 4];
};

// Rounded once, as in any matrix library.
__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// Which index runs along the memory of an operand.
enum class Along { depth, side };

// Fills a stage of one operand from `read(i, k)`; beyond the depth it is 0.
template <int Size, Along along, class R, class Read>
__device__ void fill_stage(R (&to)[kProductDepth<R>][Size + 4], int64_t start, int64_t depth,
                           const Read& read) {
  constexpr int K = kProductDepth<R>;
#pragma unroll
  for (int n = 0; n < K * Size / kProductThreads; ++n) {
    const int at = int(threadIdx.x) + n * kProductThreads;
    const int k = along == Along::depth ? at % K : at / Size;
    const int i = along == Along::depth ? at / K : at % Size;
    to[k][i] = start + k < depth ? read(i, start + k) : R(0);
  }
}

// sums[r][c] += sum over k < depth of row(i, k) column(j, k), for the i and j of this thread and in
// this order. The threads call prepare(k) together before a stage that begins at k.
template <Along along_rows, Along along_columns, class R, class Row, class Column, class Prepare>
__device__ void add_products(ProductTile<R>& tile, int64_t depth, const Row& row,
                             const Column& column, const Prepare& prepare,
                             R (&sums)[kRowsOfThread][kColumnsOfThread]) {
  constexpr int K = kProductDepth<R>;
  for (int64_t start = 0; start < depth; start += K) {
    prepare(start);
    fill_stage<kProductRows, along_rows>(tile.rows, start, depth, row);
    fill_stage<kProductColumns, along_columns>(tile.columns, start, depth, column);
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < K; ++k) {
      R a[kRowsOfThread], b[kColumnsOfThread];
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) a[r] = tile.rows[k][product_row(r)];
#pragma unroll
      for (int c = 0; c < kColumnsOfThread; ++c) b[c] = tile.columns[k][product_column(c)];
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r)
#pragma unroll
        for (int c = 0; c < kColumnsOfThread; ++c) sums[r][c] = fused(a[r], b[c], sums[r][c]);
    }
    __syncthreads();
  }
}

// Calls body(i, sums of row i) for the rows of this thread, one after the other: what body does is
// there once.
template <class R, class Body>
__device__ void each_row(R (&sums)[kRowsOfThread][kColumnsOfThread], const Body& body) {
#pragma unroll 1
  for (int r = 0; r < kRowsOfThread; ++r) {
    body(product_row(r), sums[0]);
#pragma unroll
    for (int next = 1; next < kRowsOfThread; ++next)
#pragma unroll
      for (int c = 0; c < kColumnsOfThread; ++c) sums[next - 1][c] = sums[next][c];
  }
}

// Where a block of a launch is: tiles of columns first, then of rows, then of candidates.
struct ProductPlace {
  int64_t column, row, candidate;
  __device__ ProductPlace(int64_t rows, int64_t columns) {
    const int64_t across = (columns + kProductColumns - 1) / kProductColumns;
    const int64_t down = (rows + kProductRows - 1) / kProductRows, block = blockIdx.x;
    column = block % across * kProductColumns;
    row = block / across % down * kProductRows;
    candidate = block / across / down;
  }
};
inline unsigned product_blocks(int64_t rows, int64_t columns, int64_t candidates) {
  const int64_t across = (columns + kProductColumns - 1) / kProductColumns;
  const int64_t down = (rows + kProductRows - 1) / kProductRows;
  return unsigned(across * down * candidates);
}

}  // namespace unstuck::cuda
