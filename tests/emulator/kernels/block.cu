// Where threads are, what a block shares, and in which order things happen.
#include "core/gpu.hpp"
#include "selftest.hpp"

namespace selftest {
namespace {

__global__ void indices_kernel(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  unsigned* mine = out + 6 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
  mine[0] = blockIdx.x, mine[1] = blockIdx.y, mine[2] = blockIdx.z;
  mine[3] = threadIdx.x, mine[4] = threadIdx.y, mine[5] = threadIdx.z;
}

__global__ void votes_kernel(const int* predicates, int* out) {
  const int predicate = predicates[threadIdx.x];
  out[3 * threadIdx.x] = __syncthreads_count(predicate);
  out[3 * threadIdx.x + 1] = __syncthreads_or(predicate);
  out[3 * threadIdx.x + 2] = __syncthreads_and(predicate);
}

// The reduction that every real kernel has: lanes, then warps through shared memory.
template <class T>
__device__ T sum_of_block(T value) {
  __shared__ T warps[32];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, offset);
  }
  __syncthreads();  // the last call's readers are done
  if (lane == 0) warps[warp] = value;
  __syncthreads();
  value = threadIdx.x < blockDim.x / 32 ? warps[lane] : T(0);
  if (warp == 0) {
    for (int offset = 16; offset > 0; offset /= 2) {
      value += __shfl_down_sync(0xffffffffu, value, offset);
    }
  }
  return value;
}

__global__ void __launch_bounds__(1024) sum_kernel(const double* values, double* out, int n) {
  double sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    sum += values[i];
  }
  sum = sum_of_block(sum);
  const double count = sum_of_block(1.0);
  if (threadIdx.x == 0) {
    out[2 * blockIdx.x] = sum;
    out[2 * blockIdx.x + 1] = count;
  }
}

template <class T, bool kSynchronise>
__global__ void reverse_kernel(const T* values, T* out) {
  GPU_DYNAMIC_SHARED(T, cells);
  cells[threadIdx.x] = values[threadIdx.x];
  if (kSynchronise) __syncthreads();
  out[threadIdx.x] = cells[blockDim.x - 1 - threadIdx.x];
}

template <int kCells>
__device__ float* in_template() {
  __shared__ float cells[kCells];
  return cells;
}
__device__ inline float* in_inline_function() {
  __shared__ float cells[5];
  return cells;
}

// What a block finds in each kind of shared variable; then it leaves something there.
__global__ void garbage_kernel(unsigned* out) {
  __shared__ float own[3];
  GPU_DYNAMIC_SHARED(float, dynamic);
  float* variables[4] = {own, in_template<4>(), in_inline_function(), dynamic};
  for (int i = 0; i < 4; ++i) {
    out[4 * blockIdx.x + i] = __float_as_uint(variables[i][0]);
    variables[i][0] = 1.0f;
  }
}

__global__ void order_kernel(int* out) {
  if (threadIdx.x == 0) out[1 + atomicAdd(out, 1)] = static_cast<int>(blockIdx.x);
}

// Whichever block is last adds up what all have left, and resets the counter.
__global__ void last_block_kernel(const int* values, int* out, unsigned* counter) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    out[1 + blockIdx.x] = 2 * values[blockIdx.x];
    __threadfence();
    last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += out[1 + i];
    out[0] = sum;
  }
}

// Thread i waits until thread i+1 has written: hopeless unless a spinning thread gives way.
__global__ void spin_kernel(int* out) {
  if (threadIdx.x + 1 < blockDim.x) {
    while (atomicAdd(out + threadIdx.x + 1, 0) == 0) {
    }
  }
  atomicExch(out + threadIdx.x, 1);
}

dim3 shape(const std::vector<unsigned>& v) { return dim3(v.at(0), v.at(1), v.at(2)); }

}  // namespace

std::vector<unsigned> indices(std::vector<unsigned> grid, std::vector<unsigned> block) {
  std::size_t threads = 6;
  for (const auto& side : {grid, block}) {
    for (const unsigned n : side) threads *= n;
  }
  std::vector<unsigned> out(threads);
  GPU_LAUNCH(indices_kernel, shape(grid), shape(block), 0, nullptr, out.data());
  return out;
}

void block_votes(std::uintptr_t predicates, std::uintptr_t out, int threads) {
  GPU_LAUNCH(votes_kernel, 1, threads, 0, nullptr, pointer<const int>(predicates),
             pointer<int>(out));
}

void block_sum(std::uintptr_t values, std::uintptr_t out, int n, int blocks, int threads) {
  GPU_LAUNCH(sum_kernel, blocks, threads, 0, nullptr, pointer<const double>(values),
             pointer<double>(out), n);
}

void reverse(std::uintptr_t values, std::uintptr_t out, int threads, bool synchronise) {
  const std::size_t bytes = static_cast<std::size_t>(threads) * sizeof(double);
  if (synchronise) {
    GPU_LAUNCH((reverse_kernel<double, true>), 1, threads, bytes, nullptr,
               pointer<const double>(values), pointer<double>(out));
  } else {
    GPU_LAUNCH((reverse_kernel<double, false>), 1, threads, bytes, nullptr,
               pointer<const double>(values), pointer<double>(out));
  }
}

void shared_garbage(std::uintptr_t out, int blocks) {
  GPU_LAUNCH(garbage_kernel, blocks, 1, sizeof(float), nullptr, pointer<unsigned>(out));
}

void block_order(std::uintptr_t out, int blocks) {
  GPU_LAUNCH(order_kernel, blocks, 32, 0, nullptr, pointer<int>(out));
}

void last_block(std::uintptr_t values, std::uintptr_t out, std::uintptr_t counter, int blocks) {
  GPU_LAUNCH(last_block_kernel, blocks, 64, 0, nullptr, pointer<const int>(values),
             pointer<int>(out), pointer<unsigned>(counter));
}

void spin_for_neighbour(std::uintptr_t out, int threads) {
  GPU_LAUNCH(spin_kernel, 1, threads, 0, nullptr, pointer<int>(out));
}

}  // namespace selftest
