// What kernels share that step many tensors in one launch. A Pack has `first_block`, the number in
// the launch of each tensor's first block, and `count`.
#pragma once
#include "core/gpu.hpp"

namespace unstuck::cuda {

// The last tensor that starts at or before the block.
template <class Pack>
__device__ int tensor_of(const Pack& pack, uint32_t block) {
  int low = 0, high = pack.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (pack.first_block[middle] <= block)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

}  // namespace unstuck::cuda
