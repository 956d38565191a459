// Iterations of adaptive attention search on CUDA. What one leaves for the next, and whether there
// is to be a next, lies on the device: the host launches as many as are wanted and then looks.
//
//   losses    of the objective; those of a landscape are left undone once stopped
//   temper    one block: surveys the losses, finds the temperature and the weights
//   best      a candidate that is better than all before
//   moments   candidate_moments(); without weights once stopped
//   move      path, mean and variances, and in the last block the step size
//   scale     the variances made one on average
#include "cuda/attention.hpp"

#include <algorithm>

#include "core/block.hpp"
#include "cuda/candidate_points.hpp"
#include "cuda/candidates.hpp"
#include "cuda/objectives.hpp"
#include "math/attention.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256, kTemperThreads = 512;
constexpr int64_t kMostBlocks = 1024, kEach = 4;  // coordinates of a thread, where there are enough

unsigned blocks_for(int64_t threads) {
  return unsigned(std::clamp<int64_t>((threads + kThreads - 1) / kThreads, 1, kMostBlocks));
}
unsigned move_blocks(int64_t dim) { return blocks_for((dim + kEach - 1) / kEach); }

// What iterations know.
struct Progress {
  double sigma, beta, best, ess;
  double level;  // mean of the new variances
  int64_t done, finite, index;
  unsigned ticket;
  int improved, fresh, stopped;  // `fresh`: candidate `index` of this iteration is the best
};

// The memory that is lent, in float64 numbers.
template <class R>
struct Layout {
  static constexpr int64_t kProgress = (sizeof(Progress) + 7) / 8;
  Progress* progress;
  double *parts, *rest;
  R *losses, *weights, *sigmas, *shift, *square;
  Layout(double* memory, int64_t dim, int64_t count) {
    const auto take = [&](int64_t numbers) {
      double* here = memory;
      memory += numbers;
      return here;
    };
    const auto row = [&](int64_t numbers) { return reinterpret_cast<R*>(take(numbers)); };
    progress = reinterpret_cast<Progress*>(take(kProgress));
    parts = take(2 * move_blocks(dim));
    losses = row(count);
    weights = row(count);
    sigmas = row(count);
    shift = row(dim);
    square = row(dim);
    rest = memory;
  }
};

// What all threads of a block have, merged in a fixed order: every thread gets it.
template <int Threads, class T, class Merge>
__device__ T block_merge(T mine, const Merge& merge) {
  static_assert(sizeof(T) % sizeof(double) == 0, "the memory is aligned for numbers");
  __shared__ double memory[Threads * sizeof(T) / sizeof(double)];  // nobody constructs what is here
  T* all = reinterpret_cast<T*>(memory);
  const int rank = int(threadIdx.x);
  all[rank] = mine;
  __syncthreads();
#pragma unroll 1
  for (int half = Threads / 2; half; half /= 2) {
    if (rank < half) merge(all[rank], all[rank + half]);
    __syncthreads();
  }
  const T out = all[0];
  __syncthreads();
  return out;
}
template <int Threads>
__device__ WeightSums block_total(WeightSums mine) {
  return block_merge<Threads>(mine, [](WeightSums& a, const WeightSums& b) {
    a.first += b.first;
    a.second += b.second;
  });
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    start_kernel(Progress start, int64_t count, Progress* now, R* sigmas) {
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (first == 0) *now = start;
  for (int64_t k = first; k < count; k += int64_t(gridDim.x) * kThreads) sigmas[k] = R(start.sigma);
}

template <class R>
__global__ void __launch_bounds__(kTemperThreads)
    temper_kernel(int64_t count, const R* losses, double share, Progress* now, R* out, R* weights) {
  constexpr int T = kTemperThreads;
  const int64_t rank = threadIdx.x;
  if (now->stopped) {
    if (rank == 0) now->fresh = 0;
    return;
  }
  const double best = now->best, beta = now->beta;
  Losses mine;
  for (int64_t i = rank; i < count; i += T) {
    out[i] = losses[i];
    mine.add(losses[i], i);
  }
  const Losses seen = block_merge<T>(mine, [](Losses& a, const Losses& b) { a.merge(b); });
  const bool stop = !seen.finite || seen.low == seen.high;
  const double finite = double(seen.finite);
  Tempered found{beta, beta, {0, 1}};
  if (!stop) {
    double start = beta;
    if (beta == 0) {
      // The sum of something over the finite losses.
      const auto total = [&](const auto& of) {
        WeightSums sum{0, 0};
        for (int64_t i = rank; i < count; i += T)
          if (is_finite(losses[i])) sum.first += of(double(losses[i]));
        return block_total<T>(sum).first;
      };
      const double mean = total([](double loss) { return loss; }) / finite;
      const double square = total([&](double loss) { return (loss - mean) * (loss - mean); });
      start = first_beta(std::sqrt(square / finite), share);
    }
    found = tempered(start, share, finite, [&](double b) {
      WeightSums sum{0, 0};
      for (int64_t i = rank; i < count; i += T) {
        const double a = relative_weight(losses[i], seen.low, b);
        sum.first += a;
        sum.second += a * a;
      }
      return block_total<T>(sum);
    });
  }
  for (int64_t i = rank; i < count; i += T)
    weights[i] =
        stop ? R(0) : R(relative_weight(losses[i], seen.low, found.beta) / found.sums.first);
  if (rank != 0) return;
  ++now->done;
  now->finite = seen.finite;
  now->index = seen.best;
  now->fresh = seen.finite && seen.low < best;
  if (now->fresh) {
    now->best = seen.low;
    now->improved = 1;
  }
  now->ess = found.sums.ess();
  now->beta = found.next;
  now->stopped = stop;
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    best_kernel(GPU_GRID_CONSTANT(RegionView<R>) region, DrawView draw, const Progress* now,
                R* best_x) {
  if (!now->fresh) return;
  const int64_t blocks = blocks_of(region.dim);
  for (int64_t b = int64_t(blockIdx.x) * kThreads + threadIdx.x; b < blocks;
       b += int64_t(gridDim.x) * kThreads)
    write_block(region, draw, now->index, b, best_x);
}

// The variances take the place of the squares.
template <class R>
__global__ void __launch_bounds__(kThreads)
    move_kernel(int64_t dim, const R* shift, const R* scale, R* square, R* path, R* mean,
                double* parts, Progress* now) {
  __shared__ double shared[2 * kThreads / 32];
  if (now->stopped) return;
  const double sigma = now->sigma, ess = now->ess;
  const AttentionRates rates(double(dim), ess);
  const R keep = R(1 - rates.path), gain = R(rates.path_gain(ess, sigma));
  const R keep_square = R(1 - rates.variance), gain_square = R(rates.variance_gain<R>(sigma));
  double sums[2] = {};
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < dim;
       i += int64_t(gridDim.x) * kThreads) {
    const R p = next_path(path[i], shift[i], scale[i], keep, gain);
    const R variance = next_variance(scale[i], square[i], keep_square, gain_square);
    path[i] = p;
    square[i] = variance;
    mean[i] = next_mean(mean[i], shift[i]);
    sums[0] += double(p) * double(p);
    sums[1] += double(variance);
  }
  const double mine = block_sums(sums, shared);
  if (threadIdx.x < 2) parts[2 * blockIdx.x + threadIdx.x] = mine;
  if (!last_block(&now->ticket)) return;
  sums[0] = sums[1] = 0;
  for (int64_t b = threadIdx.x; b < gridDim.x; b += kThreads) {
    sums[0] += parts[2 * b];
    sums[1] += parts[2 * b + 1];
  }
  const double total = block_sums(sums, shared);
  const double level = __shfl_sync(0xffffffffu, total, 1) / double(dim);
  if (threadIdx.x != 0) return;
  now->level = level;
  now->sigma = rates.next_sigma(sigma, std::sqrt(total), level);
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(int64_t dim, int64_t count, const R* variance, const Progress* now, R* scale,
                 R* sigmas) {
  if (now->stopped) return;
  const double level = now->level;
  const R sigma = R(now->sigma);
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = first; i < dim; i += step) scale[i] = next_scale(variance[i], level);
  for (int64_t k = first; k < count; k += step) sigmas[k] = sigma;
}

template <class R>
int evaluate(const LandscapeView& o, const RegionView<R>& region, const DrawView& draw,
             int64_t count, const Layout<R>& at, void* stream) {
  return candidate_losses(o, region, draw, count, at.losses, at.rest, &at.progress->stopped,
                          stream);
}
template <class R>
int evaluate(const Regression& o, const RegionView<R>& region, const DrawView& draw, int64_t count,
             const Layout<R>& at, void* stream) {
  return linear_candidates(o, region, draw, count, at.losses, at.rest, stream);
}
template <class R>
int evaluate(const NetData& o, const RegionView<R>& region, const DrawView& draw, int64_t count,
             const Layout<R>& at, void* stream) {
  return net_candidates(o, region, draw, count, at.losses, at.rest, stream);
}

int64_t losses_workspace(const LandscapeView&, int64_t dim, int64_t count, bool antithetic) {
  return candidate_losses_workspace(dim, count, antithetic);
}
int64_t losses_workspace(const Regression& o, int64_t, int64_t count, bool antithetic) {
  return linear_candidates_workspace(o.n, count, antithetic);
}
int64_t losses_workspace(const NetData& o, int64_t, int64_t count, bool) {
  return net_candidates_workspace(o.n, count);
}

// Launches one iteration.
template <class R>
int launch_step(const ObjectiveView& objective, const RegionView<R>& region, const DrawView& draw,
                int64_t count, double share, const AttentionState<R>& state, const Layout<R>& at,
                R* losses, R* best_x, cudaStream_t stream) {
  const auto losses_of = [&](const auto& o) {
    return evaluate(o, region, draw, count, at, stream);
  };
  if (const int error = std::visit(losses_of, objective)) return error;
  GPU_LAUNCH(temper_kernel<R>, 1, kTemperThreads, 0, stream, count, at.losses, share, at.progress,
             losses, at.weights);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  GPU_LAUNCH(best_kernel<R>, blocks_for(blocks_of(region.dim)), kThreads, 0, stream, region, draw,
             at.progress, best_x);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  if (const int error =
          candidate_moments(region, draw, at.weights, count, at.shift, at.square, at.rest, stream))
    return error;
  GPU_LAUNCH(move_kernel<R>, move_blocks(region.dim), kThreads, 0, stream, region.dim, at.shift,
             state.scale, at.square, state.path, state.mean, at.parts, at.progress);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  GPU_LAUNCH(scale_kernel<R>, blocks_for(std::max(region.dim, count)), kThreads, 0, stream,
             region.dim, count, at.square, at.progress, state.scale, at.sigmas);
  return int(cudaGetLastError());
}

}  // namespace

int64_t attention_workspace(const ObjectiveView& objective, int64_t dim, int64_t count,
                            bool antithetic) {
  const int64_t losses = std::visit(
      [&](const auto& o) { return losses_workspace(o, dim, count, antithetic); }, objective);
  return Layout<double>::kProgress + 2 * move_blocks(dim) + 3 * count + 2 * dim +
         std::max(losses, candidate_moments_workspace(dim, count, antithetic));
}

template <class R>
int attention_steps(const ObjectiveView& objective, const RegionView<R>& region, DrawView draw,
                    int64_t count, int64_t steps, double share, AttentionState<R>& state, R* losses,
                    R* best_x, AttentionReport& report, double* workspace, void* stream) {
  const Layout<R> at(workspace, region.dim, count);
  const auto s = static_cast<cudaStream_t>(stream);
  Progress now{};
  now.sigma = state.sigma;
  now.beta = state.beta;
  now.best = report.best;
  GPU_LAUNCH(start_kernel<R>, blocks_for(count), kThreads, 0, s, now, count, at.progress,
             at.sigmas);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  RegionView<R> moving = region;
  moving.sigmas = at.sigmas;
  for (int64_t k = 0; k < steps; ++k, ++draw.key.iteration)
    if (const int error =
            launch_step(objective, moving, draw, count, share, state, at, losses, best_x, s))
      return error;
  if (const int error = read_back(at.progress, &now, sizeof now, stream)) return error;
  state.sigma = now.sigma;
  state.beta = now.beta;
  report = {now.done, now.finite, now.ess, now.best, now.improved != 0};
  return 0;
}

#define UNSTUCK_NAMED(R)                                                                      \
  template int attention_steps(const ObjectiveView&, const RegionView<R>&, DrawView, int64_t, \
                               int64_t, double, AttentionState<R>&, R*, R*, AttentionReport&, \
                               double*, void*);
UNSTUCK_NAMED(float)
UNSTUCK_NAMED(double)
#undef UNSTUCK_NAMED

}  // namespace unstuck::cuda
