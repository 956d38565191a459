// Candidates around a point on CUDA: they are drawn where they are needed and never stored.
//
//   losses    a warp a slice of a candidate, or of an antithetic pair (landscape_sums.hpp)
//   weights   one block
//   moments   a thread owns the four coordinates of a Philox block, draws the noise again and sums
//             over a slice of the candidates; slices are added up in a fixed order
#include "cuda/candidates.hpp"

#include <algorithm>

#include "cuda/candidate_points.hpp"
#include "cuda/landscape_sums.hpp"
#include "cuda/softmax.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256, kSoftmaxThreads = 512;
constexpr int64_t kMostBlocks = int64_t(1) << 16;

unsigned blocks_for(int64_t threads) {
  return unsigned(std::min(kMostBlocks, (threads + kThreads - 1) / kThreads));
}

// How candidates are cut so that there are blocks enough for a device, and pairs enough for a
// block.
struct MomentSlices {
  static constexpr int64_t kBlocks = 1024, kLeast = 16;
  int64_t tiles, count, length;  // blocks along the coordinates, slices, rows of candidates of each
  MomentSlices(int64_t dim, int64_t rows) {
    tiles = (blocks_of(dim) + kThreads - 1) / kThreads;
    const int64_t wanted = std::clamp<int64_t>(kBlocks / std::max<int64_t>(tiles, 1), 1,
                                               std::max<int64_t>(rows / kLeast, 1));
    length = std::max<int64_t>((rows + wanted - 1) / wanted, 1);
    count = std::max<int64_t>((rows + length - 1) / length, 1);
  }
};

// Float32 sums of this many rows are added to float64 ones.
constexpr int kFold = 256;

template <class R>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(GPU_GRID_CONSTANT(CandidatePoints<R>) points, const R* weights, int64_t length,
                   int64_t tiles, double* parts, R* shift, R* square) {
  const RegionView<R>& region = points.region;
  const int64_t tile = blockIdx.x % tiles, slice = blockIdx.x / tiles, dim = region.dim;
  const int64_t block = tile * kThreads + threadIdx.x, c = first_coordinate(block);
  if (c >= dim) return;
  Coordinate<R> here[4];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (c + kNoiseLanes * j < dim) here[j].load(region, c + kNoiseLanes * j);

  const int64_t begin = slice * length;
  int64_t end = begin + length;
  if (end > points.rows()) end = points.rows();
  double total[2][4] = {};
  for (int64_t start = begin; start < end; start += kFold) {
    R sums[2][4] = {};
    for (int64_t row = start; row < end && row < start + kFold; ++row) {
      const int64_t first = points.first(row);
      const int members = points.members(row);
      const R a = weights[first], b = members > 1 ? weights[first + 1] : R(0);
      if (a == R(0) && b == R(0)) continue;  // the whole block
      const R sigma = sigma_of(region, first),
              other = b != R(0) ? sigma_of(region, first + 1) : R(0);
      float eps[4];
      draw_normals(uint32_t(block), uint32_t(row), points.draw.key, eps);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (c + kNoiseLanes * j >= dim) continue;
        const auto add = [&](R weight, R step, R e) {
          if (weight == R(0)) return;  // its candidate may be anywhere
          const R way = here[j].place(region, step, e) - here[j].mean;
          sums[0][j] += weight * way;
          sums[1][j] += weight * (way * way);
        };
        add(a, sigma, R(eps[j]));
        add(b, other, R(-eps[j]));
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      total[0][j] += double(sums[0][j]);
      total[1][j] += double(sums[1][j]);
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t i = c + kNoiseLanes * j;
    if (i >= dim) continue;
    if (parts) {
      parts[2 * slice * dim + i] = total[0][j];
      parts[(2 * slice + 1) * dim + i] = total[1][j];
    } else {
      shift[i] = R(total[0][j]);
      square[i] = R(total[1][j]);
    }
  }
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    moments_finish_kernel(int64_t slices, int64_t dim, const double* parts, R* shift, R* square) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < 2 * dim;
       i += int64_t(gridDim.x) * kThreads) {
    double sum = 0;
    for (int64_t s = 0; s < slices; ++s) sum += parts[2 * s * dim + i];
    (i < dim ? shift[i] : square[i - dim]) = R(sum);
  }
}

template <class R>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_kernel(int64_t count, const R* losses, double beta, R* weights, double* ess) {
  const auto counts = [&](int64_t i) { return is_finite(losses[i]); };
  const auto score = [&](int64_t i) { return -beta * double(losses[i]); };
  const OnlineSoftmax found = block_softmax<kSoftmaxThreads>(count, counts, score);
  for (int64_t i = threadIdx.x; i < count; i += kSoftmaxThreads)
    weights[i] = counts(i) ? R(exp_negative(score(i) - found.best) / found.sum) : R(0);
  if (threadIdx.x == 0) *ess = found.effective_size();
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(GPU_GRID_CONSTANT(RegionView<R>) region, DrawView draw, int64_t first,
                  int64_t count, R* out) {
  const int64_t width = blocks_of(region.dim), all = width * count;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < all;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t row = i / width;
    write_block(region, draw, first + row, i % width, out + row * region.dim);
  }
}

int64_t rows_of(int64_t count, bool antithetic) { return antithetic ? (count + 1) / 2 : count; }

}  // namespace

int64_t candidate_losses_workspace(int64_t dim, int64_t count, bool antithetic) {
  return landscape_workspace(dim, rows_of(count, antithetic), 2);
}

template <class R>
int candidate_losses(const LandscapeView& objective, const RegionView<R>& region,
                     const DrawView& draw, int64_t count, R* losses, double* workspace,
                     const int* stopped, void* stream) {
  const CandidatePoints<R> points{region, draw, count, stopped};
  return landscape_values<R>(objective, points, losses, workspace, stream);
}

template <class R>
int softmax_weights(int64_t count, const R* losses, double beta, R* weights, double* ess,
                    void* stream) {
  GPU_LAUNCH(softmax_kernel<R>, 1, kSoftmaxThreads, 0, static_cast<cudaStream_t>(stream), count,
             losses, beta, weights, ess);
  return int(cudaGetLastError());
}

int64_t candidate_moments_workspace(int64_t dim, int64_t count, bool antithetic) {
  const MomentSlices slices(dim, rows_of(count, antithetic));
  return slices.count > 1 ? 2 * dim * slices.count : 0;
}

template <class R>
int candidate_moments(const RegionView<R>& region, const DrawView& draw, const R* weights,
                      int64_t count, R* shift, R* square, double* workspace, void* stream) {
  if (region.dim == 0) return 0;
  const CandidatePoints<R> points{region, draw, count, nullptr};
  const MomentSlices slices(region.dim, points.rows());
  double* parts = slices.count > 1 ? workspace : nullptr;
  const auto s = static_cast<cudaStream_t>(stream);
  GPU_LAUNCH(moments_kernel<R>, unsigned(slices.tiles * slices.count), kThreads, 0, s, points,
             weights, slices.length, slices.tiles, parts, shift, square);
  const cudaError_t error = cudaGetLastError();
  if (error || !parts) return int(error);
  GPU_LAUNCH(moments_finish_kernel<R>, blocks_for(2 * region.dim), kThreads, 0, s, slices.count,
             region.dim, parts, shift, square);
  return int(cudaGetLastError());
}

template <class R>
int candidate_sample(const RegionView<R>& region, const DrawView& draw, int64_t first,
                     int64_t count, R* out, void* stream) {
  if (region.dim == 0 || count == 0) return 0;
  GPU_LAUNCH(sample_kernel<R>, blocks_for(blocks_of(region.dim) * count), kThreads, 0,
             static_cast<cudaStream_t>(stream), region, draw, first, count, out);
  return int(cudaGetLastError());
}

int read_back(const void* from, void* to, size_t bytes, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s);
  return int(error ? error : cudaStreamSynchronize(s));
}

#define UNSTUCK_CANDIDATES(R)                                                                      \
  template int candidate_losses(const LandscapeView&, const RegionView<R>&, const DrawView&,       \
                                int64_t, R*, double*, const int*, void*);                          \
  template int softmax_weights(int64_t, const R*, double, R*, double*, void*);                     \
  template int candidate_moments(const RegionView<R>&, const DrawView&, const R*, int64_t, R*, R*, \
                                 double*, void*);                                                  \
  template int candidate_sample(const RegionView<R>&, const DrawView&, int64_t, int64_t, R*, void*);
UNSTUCK_CANDIDATES(float)
UNSTUCK_CANDIDATES(double)
#undef UNSTUCK_CANDIDATES

}  // namespace unstuck::cuda
