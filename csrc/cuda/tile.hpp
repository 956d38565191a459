// Products of a tile of data with a tile of vectors that a block has made in shared memory.
#pragma once
#include "core/gpu.hpp"

namespace unstuck::cuda {

constexpr int kTileThreads = 256;
constexpr int kTileRows = 128, kTileVectors = 32, kTileDepth = 64;
constexpr int kStage = 16;                   // columns of data at a time
constexpr int kAcross = 8, kDown = 32;       // threads of a block, along vectors and rows
constexpr int kOwnRows = kTileRows / kDown;  // of a thread: tile_row(), tile_row() + kDown, ...
constexpr int kOwnVectors = kTileVectors / kAcross;  // likewise with kAcross

__device__ inline int tile_vector() { return int(threadIdx.x) % kAcross; }
__device__ inline int tile_row() { return int(threadIdx.x) / kAcross; }

// The odd widths spread a column over the banks.
template <class T>
struct Tile {
  T vectors[kTileVectors][kTileDepth + 1];
  T rows[kTileRows][kStage + 1];
};

// sums[r][v] += row r of the thread times its vector v, over `depth` columns of both. `data` is the
// first of `rows` rows. The threads may have written the vectors just before, and may write them
// just after.
template <class T>
__device__ void multiply_tile(Tile<T>& tile, const T* data, int64_t stride, int64_t rows, int depth,
                              T (&sums)[kOwnRows][kOwnVectors]) {
  const int across = tile_vector(), down = tile_row();
  for (int start = 0; start < depth; start += kStage) {
    const int width = depth - start < kStage ? depth - start : kStage;
    __syncthreads();
    for (int i = int(threadIdx.x); i < kTileRows * kStage; i += kTileThreads) {
      const int r = i / kStage, k = i % kStage;
      const int64_t row = r < rows ? r : rows - 1;  // reads a row twice, nobody uses the second
      if (k < width) tile.rows[r][k] = data[row * stride + start + k];
    }
    __syncthreads();
    for (int k = 0; k < width; ++k) {
      T x[kOwnRows], v[kOwnVectors];
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r) x[r] = tile.rows[down + kDown * r][k];
#pragma unroll
      for (int j = 0; j < kOwnVectors; ++j) v[j] = tile.vectors[across + kAcross * j][start + k];
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r)
#pragma unroll
        for (int j = 0; j < kOwnVectors; ++j) sums[r][j] += x[r] * v[j];
    }
  }
  __syncthreads();
}

}  // namespace unstuck::cuda
