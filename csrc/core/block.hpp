// What the threads of one block do together.
#pragma once
#include "core/gpu.hpp"

namespace unstuck {

// The threads of a block as one team; see math/gate.hpp.
struct BlockTeam {
  int rank, size;
  __device__ BlockTeam() : rank(int(threadIdx.x)), size(int(blockDim.x)) {}
  __device__ void sync() const { __syncthreads(); }
};

// The sum over a warp, in a fixed order; the first lane has it.
template <class R>
__device__ inline R warp_sum(R x) {
  for (int offset = 16; offset; offset >>= 1) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}
template <class R>
__device__ inline R warp_product(R x) {
  for (int offset = 16; offset; offset >>= 1) x *= __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}

// The sums of N numbers over a block, in a fixed order; thread k < N returns the k-th, the others
// nothing of use. `shared` has room for N x (threads / 32) numbers. The block has whole warps.
template <int N>
__device__ inline double block_sums(const double (&x)[N], double* shared) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int warps = int(blockDim.x) / 32;
  for (int k = 0; k < N; ++k) {
    const double sum = warp_sum(x[k]);
    if (lane == 0) shared[k * warps + warp] = sum;
  }
  __syncthreads();
  double total = 0;
  if (int(threadIdx.x) < N)
    for (int w = 0; w < warps; ++w) total += shared[int(threadIdx.x) * warps + w];
  __syncthreads();
  return total;
}

// Whether this block is the last of so many to come here, or of the grid. What the blocks before it
// wrote is visible to it. `ticket` starts at zero and is left at zero.
__device__ inline bool last_block(unsigned* ticket, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicInc(ticket, blocks - 1) == blocks - 1;
  __syncthreads();
  if (last) __threadfence();
  return last;
}
__device__ inline bool last_block(unsigned* ticket) { return last_block(ticket, gridDim.x); }

}  // namespace unstuck
