// Kernels that are wrong, each in one way. Some are more than nvcc would compile.
#include <map>
#include <stdexcept>

#include "core/gpu.hpp"
#include "selftest.hpp"

namespace selftest {
namespace {

__global__ void early_return(int* out) {
  if (threadIdx.x < 3) return;
  __syncthreads();
  *out = 1;
}

__global__ void two_barriers(int*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

// Lane 7 is named, but waits for the block.
__global__ void absent_lane(int* out) {
  if (threadIdx.x != 7) out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1, 1);
  __syncthreads();
}

// The upper lanes agree among themselves and go on; the lower ones wait for them in vain.
__global__ void two_masks(int* out) {
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffffffu : 0xffff0000u;
  out[threadIdx.x] = __shfl_xor_sync(mask, 1, 1);
  __syncthreads();
}

__global__ void foreign_mask(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }
__global__ void empty_mask(int* out) { out[threadIdx.x] = __any_sync(0, 1); }
__global__ void odd_width(int* out) { out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0, 12); }

__global__ void dynamic_overrun(int*) {
  GPU_DYNAMIC_SHARED(int, cells);
  cells[16 + threadIdx.x / 63] = 1;
}

__device__ volatile int opaque_index = 32;
__global__ void static_overrun(int* out) {
  __shared__ int cells[32];
  int* volatile begin = cells;  // hides the bounds from the compiler; AddressSanitizer knows
  begin[opaque_index] = 1;
  *out = cells[0];
}

__global__ void misaligned_vector(int* out) {
  float values[8] = {};
  const int one = opaque_index / 32;
  *out = static_cast<int>(reinterpret_cast<const float4*>(values + one)->x);
}

__global__ void spins(int* out) {
  while (atomicAdd(out, 0) == 0) {
  }
}

__global__ void traps(int*) {
  if (threadIdx.x == 9) __trap();
}

int destroyed = 0;
struct Counted {
  ~Counted() { ++destroyed; }
};
__global__ void throws(int*) {
  const Counted counted;
  if (threadIdx.x == 5) throw std::out_of_range("thread five");
  __syncthreads();
}

__device__ int recurse(int depth) {
  volatile int frame[256] = {depth};
  return frame[0] < 0 ? 0 : recurse(depth + 1) + frame[255];
}
__global__ void deep_stack(int* out) { *out = recurse(0); }

}  // namespace

void fault(const std::string& name, std::uintptr_t out) {
  static const std::map<std::string, void (*)(int*)> kernels = {
      {"early_return", early_return},
      {"two_barriers", two_barriers},
      {"absent_lane", absent_lane},
      {"two_masks", two_masks},
      {"foreign_mask", foreign_mask},
      {"empty_mask", empty_mask},
      {"odd_width", odd_width},
      {"dynamic_overrun", dynamic_overrun},
      {"static_overrun", static_overrun},
      {"misaligned_vector", misaligned_vector},
      {"spins", spins},
      {"traps", traps},
      {"throws", throws},
      {"deep_stack", deep_stack},
  };
  destroyed = 0;
  const auto kernel = kernels.at(name);
  GPU_LAUNCH(kernel, dim3(2, 1, 3), 64, 16 * sizeof(int), nullptr, pointer<int>(out));
}

int destructors_run() { return destroyed; }

}  // namespace selftest
