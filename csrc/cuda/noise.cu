// The integers behind the noise on CUDA: a thread makes the four words of one Philox block, sixteen
// coordinates apart, so that sixteen threads write sixteen neighbours; see math/philox.hpp.
#include "cuda/noise.hpp"

#include <algorithm>

#include "cuda/candidate_points.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = int64_t(1) << 16;

__global__ void __launch_bounds__(kThreads)
    words_kernel(NoiseKey key, int64_t first, int64_t count, int64_t dim, double* out) {
  const int64_t width = blocks_of(dim), all = width * count;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < all;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t row = i / width, block = i % width;
    const PhiloxWords w = philox(uint32_t(block), uint32_t(first + row), key);
    int64_t c = first_coordinate(block);
    for (int j = 0; j < 4; ++j, c += kNoiseLanes)
      if (c < dim) out[row * dim + c] = double(w.word[j]);
  }
}

}  // namespace

int noise_words(const NoiseKey& key, int64_t first, int64_t count, int64_t dim, double* out,
                void* stream) {
  if (count == 0 || dim == 0) return 0;
  const int64_t threads = blocks_of(dim) * count;
  const auto blocks = unsigned(std::min(kMostBlocks, (threads + kThreads - 1) / kThreads));
  GPU_LAUNCH(words_kernel, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), key, first,
             count, dim, out);
  return int(cudaGetLastError());
}

}  // namespace unstuck::cuda
