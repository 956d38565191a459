// Softmax weights by the threads of one block, see math/softmax.hpp.
#pragma once
#include "core/block.hpp"
#include "math/softmax.hpp"

namespace unstuck::cuda {

// The sums over `scores(i)`, i < count, where `counts(i)`: every thread gets them. The order is
// fixed: each thread takes every 256th score, then neighbours are merged.
template <int Threads, class Counts, class Score>
__device__ OnlineSoftmax block_softmax(int64_t count, const Counts& counts, const Score& score) {
  __shared__ double best[Threads], sum[Threads], square[Threads];
  __shared__ bool empty[Threads];
  const int rank = int(threadIdx.x);
  OnlineSoftmax mine;
  for (int64_t i = rank; i < count; i += Threads)
    if (counts(i)) {
      mine.raise(score(i));
      mine.add(score(i));
    }
#pragma unroll 1
  for (int half = Threads; half; half /= 2) {  // the first round has nobody to merge
    if (rank < half) {
      if (half < Threads) {
        OnlineSoftmax other;
        other.best = best[rank + half];
        other.sum = sum[rank + half];
        other.square = square[rank + half];
        other.empty = empty[rank + half];
        mine.merge(other);
      }
      best[rank] = mine.best;
      sum[rank] = mine.sum;
      square[rank] = mine.square;
      empty[rank] = mine.empty;
    }
    __syncthreads();
  }
  mine.best = best[0];
  mine.sum = sum[0];
  mine.square = square[0];
  mine.empty = empty[0];
  return mine;
}

}  // namespace unstuck::cuda
