// The runtime API: which launches are refused, and how that is told.
#include "core/gpu.hpp"
#include "selftest.hpp"

namespace selftest {
namespace {

__global__ void empty_kernel() {}

__global__ void dynamic_kernel(int bytes) {
  GPU_DYNAMIC_SHARED(unsigned char, cells);
  if (bytes > 0) cells[bytes - 1] = 1;
}

__global__ void both_kernel(float* out) {
  __shared__ float own[8 * 1024];
  for (int i = 0; i < 8 * 1024; ++i) own[i] = 0.0f;
  *out = own[0];
}

struct Big {
  int values[7 * 1024];
};
__global__ void by_value_kernel(Big big, int* out) {
  big.values[0] += static_cast<int>(threadIdx.x);  // of this thread's own copy
  out[threadIdx.x] = big.values[0] + big.values[7 * 1024 - 1];
}
__global__ void constant_kernel(GPU_GRID_CONSTANT(Big) big, int* out) {
  out[threadIdx.x] += big.values[0] + big.values[7 * 1024 - 1];
}

}  // namespace

int launch(std::vector<unsigned> grid, std::vector<unsigned> block, std::size_t shared_bytes,
           bool clear) {
  const dim3 blocks(grid.at(0), grid.at(1), grid.at(2));
  const dim3 threads(block.at(0), block.at(1), block.at(2));
  GPU_LAUNCH(empty_kernel, blocks, threads, shared_bytes, nullptr);
  return clear ? cudaGetLastError() : cudaPeekAtLastError();
}

int peek() { return cudaPeekAtLastError(); }
int last() { return cudaGetLastError(); }
std::string error_string(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

int allow_shared_bytes(int bytes) {
  return cudaFuncSetAttribute(dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

int opted_in_launch(std::size_t shared_bytes) {
  GPU_LAUNCH(dynamic_kernel, 1, 1, shared_bytes, nullptr, static_cast<int>(shared_bytes));
  return cudaGetLastError();
}

int static_and_dynamic(std::size_t shared_bytes) {
  float out = 1;
  GPU_LAUNCH(both_kernel, 1, 1, shared_bytes, nullptr, &out);
  return cudaGetLastError();
}

int big_parameter(std::uintptr_t out) {
  Big big{};
  big.values[0] = 100;
  big.values[7 * 1024 - 1] = 5;
  GPU_LAUNCH(by_value_kernel, 1, 64, 0, nullptr, big, pointer<int>(out));
  GPU_LAUNCH(constant_kernel, 1, 64, 0, nullptr, big, pointer<int>(out));
  return cudaGetLastError();
}

std::vector<int> device(int device) {
  int count = -1, current = -1;
  const int counted = cudaGetDeviceCount(&count);
  const int set = cudaSetDevice(device);
  const int got = cudaGetDevice(&current);
  cudaGetLastError();
  return {counted, count, set, got, current};
}

int attribute(int attribute, int device) {
  int value = -1;
  const cudaError_t error =
      cudaDeviceGetAttribute(&value, static_cast<cudaDeviceAttr>(attribute), device);
  cudaGetLastError();
  return error == cudaSuccess ? value : -error;
}

int occupancy(int threads, std::size_t shared_bytes) {
  int blocks = -1;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, empty_kernel, threads, shared_bytes);
  return blocks;
}

// n integers: into device memory, doubled by memset and copies, and back.
std::vector<int> copies(int n) {
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(int);
  std::vector<int> host(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) host[static_cast<std::size_t>(i)] = i;
  int* device = nullptr;
  cudaMalloc(&device, 2 * bytes);
  cudaMemsetAsync(device, 1, 2 * bytes, nullptr);
  cudaMemcpyAsync(device, host.data(), bytes, cudaMemcpyHostToDevice, nullptr);
  std::vector<int> back(2 * static_cast<std::size_t>(n));
  cudaMemcpyAsync(back.data(), device, 2 * bytes, cudaMemcpyDeviceToHost, nullptr);
  cudaStreamSynchronize(nullptr);
  cudaFree(device);
  return back;
}

}  // namespace selftest
