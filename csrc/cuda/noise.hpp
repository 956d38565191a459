#pragma once
#include "math/philox.hpp"

namespace unstuck::cuda {

// The integers behind the noise of units first, ..., first + count - 1: `out` [count, dim]. Returns
// a cudaError_t and never waits for the device.
int noise_words(const NoiseKey& key, int64_t first, int64_t count, int64_t dim, double* out,
                void* stream);

}  // namespace unstuck::cuda
