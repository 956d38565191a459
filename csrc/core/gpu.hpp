// What kernels need of CUDA, under names that the test emulator also provides.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>

// clang-format off
#define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ((kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__))
// clang-format on

// Memory of a block whose size the launch says.
#define GPU_DYNAMIC_SHARED(T, name)                             \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  T* const name = reinterpret_cast<T*>(name##_bytes)

// A kernel parameter that no thread changes: read where it lies, never copied to local memory.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700
#define GPU_GRID_CONSTANT(T) const __grid_constant__ T
#else
#define GPU_GRID_CONSTANT(T) const T
#endif
#else
#include "cuda_emulator.hpp"
#endif

namespace unstuck {

// Bytes of arguments that one launch takes: 32 KB since CUDA 12.1 on sm_70 and newer, 4 KB before.
#if defined(UNSTUCK_KERNEL_PARAMETERS)
constexpr int kParameterBytes = UNSTUCK_KERNEL_PARAMETERS;
#elif defined(__CUDACC__) && CUDART_VERSION >= 12010 && defined(__CUDA_ARCH_LIST__)
constexpr int oldest_architecture() {
  constexpr int list[] = {__CUDA_ARCH_LIST__};
  int oldest = list[0];
  for (int arch : list) oldest = arch < oldest ? arch : oldest;
  return oldest;
}
constexpr int kParameterBytes = oldest_architecture() >= 700 ? 32764 : 4096;
#elif defined(__CUDACC__)
constexpr int kParameterBytes = 4096;
#else
constexpr int kParameterBytes = 32764;
#endif

}  // namespace unstuck
