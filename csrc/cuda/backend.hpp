// What the entry points of all kernel families share on CUDA.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/dlpack.hpp"
#include "cuda/blend.hpp"

namespace unstuck::cuda {

#if defined(UNSTUCK_EMULATED)
constexpr int32_t kDeviceType = dlpack::kCPU;
#else
constexpr int32_t kDeviceType = dlpack::kCUDA;
#endif

// Throws a cudaError_t that is none.
inline void check(int error) {
  if (error)
    throw std::runtime_error("CUDA error " + std::to_string(error) + ": " + error_text(error));
}

// Memory on the device that Python lends for one call or many.
struct Workspace {
  double* memory = nullptr;
  int64_t size = 0;
  // Its memory, when it has room for this many numbers.
  double* room(int64_t numbers) const {
    if (numbers > size)
      throw std::invalid_argument("the workspace must have " + std::to_string(numbers) +
                                  " float64 numbers, not " + std::to_string(size));
    return memory;
  }
};

}  // namespace unstuck::cuda
