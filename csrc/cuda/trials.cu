// Learning-rate trials on CUDA, see math/trials.hpp for the formulas. The data is read once: a warp
// multiplies four rows with w and d, and all rates are tried while the products are in registers.
//
//   rows      each block leaves its part of the three inner products, or of the loss at each rate
//   finish    one block adds the parts up in a fixed order, weighs the rates and chooses one
//   move      w - rate d, where there was a loss to choose by
#include "cuda/trials.hpp"

#include <algorithm>

#include "cuda/candidates.hpp"
#include "cuda/rows.hpp"
#include "cuda/softmax.hpp"
#include "math/trials.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kFinishThreads = 512;
constexpr int kRatesOfLane = 4, kRatesOfBlock = 32 * kRatesOfLane;
constexpr int kRatesOfThread = 8;  // of the net

Parts row_parts(int64_t n) { return Parts(n, kRows * kWarps); }
Parts point_parts(int64_t dim) { return Parts(dim, 8 * kThreads); }
Parts net_parts(int64_t n) { return Parts(n, kThreads); }

// products[0] and [1] are those of rows first, first + 1, ... with w and d, in every lane.
template <class T>
__device__ void multiply_line(const Regression& o, const Trials& t, int64_t first, int64_t end,
                              double (&products)[2][kRows]) {
  const T* const vectors[2] = {static_cast<const T*>(t.w), static_cast<const T*>(t.d)};
  multiply_rows(o, vectors, first, end, products);
}

// parts [blocks, 3]
template <class T>
__global__ void __launch_bounds__(kThreads)
    least_squares_kernel(Regression o, Trials t, int64_t length, double* parts) {
  __shared__ double shared[3 * kWarps];
  const int64_t begin = int64_t(blockIdx.x) * length;
  const int64_t end = begin + length < o.n ? begin + length : o.n;
  const T* y = static_cast<const T*>(o.y);
  Parabola sum{0, 0, 0};
  for (int64_t i = begin + int64_t(threadIdx.x) / 32 * kRows; i < end; i += kRows * kWarps) {
    double along[2][kRows];
    multiply_line<T>(o, t, i, end, along);
    for (int r = 0; r < kRows && i + r < end; ++r)
      sum.add(along[0][r] - double(y[i + r]), along[1][r]);
  }
  const bool counts = threadIdx.x % 32 == 0;  // all lanes have the same
  const double mine[3] = {counts ? sum.xx : 0, counts ? sum.xd : 0, counts ? sum.dd : 0};
  const double total = block_sums(mine, shared);
  if (threadIdx.x < 3) parts[int64_t(blockIdx.x) * 3 + threadIdx.x] = total;
}

// parts [blocks, K]; gridDim.x groups of rates: there may be more of them than 65,535.
template <class T>
__global__ void __launch_bounds__(kThreads)
    logistic_kernel(Regression o, Trials t, int64_t length, double* parts) {
  __shared__ double shared[kWarps][kRatesOfBlock];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t begin = int64_t(blockIdx.y) * length;
  const int64_t end = begin + length < o.n ? begin + length : o.n;
  const int64_t first_rate = int64_t(blockIdx.x) * kRatesOfBlock;
  const T *y = static_cast<const T*>(o.y), *rates = static_cast<const T*>(t.rates);
  T rate[kRatesOfLane];
  double sums[kRatesOfLane] = {};
#pragma unroll
  for (int u = 0; u < kRatesOfLane; ++u) {
    const int64_t k = first_rate + lane + 32 * u;
    rate[u] = k < t.count ? rates[k] : T(0);
  }
  for (int64_t i = begin + int64_t(warp) * kRows; i < end; i += kRows * kWarps) {
    double along[2][kRows];
    multiply_line<T>(o, t, i, end, along);
    for (int r = 0; r < kRows && i + r < end; ++r)
#pragma unroll
      for (int u = 0; u < kRatesOfLane; ++u) {
        if (first_rate + 32 * u >= t.count) break;
        sums[u] += bce_row(T(along[0][r]) - rate[u] * T(along[1][r]), y[i + r]);
      }
  }
#pragma unroll
  for (int u = 0; u < kRatesOfLane; ++u) shared[warp][lane + 32 * u] = sums[u];
  __syncthreads();
  for (int j = int(threadIdx.x); j < kRatesOfBlock && first_rate + j < t.count; j += kThreads) {
    double total = 0;
    for (int v = 0; v < kWarps; ++v) total += shared[v][j];
    parts[int64_t(blockIdx.y) * t.count + first_rate + j] = total;
  }
}

// The three inner products of w and d: parts [blocks, 3].
template <class T>
__global__ void __launch_bounds__(kThreads)
    point_kernel(Trials t, int64_t dim, int64_t length, double* parts) {
  __shared__ double shared[3 * kWarps];
  const T *w = static_cast<const T*>(t.w), *d = static_cast<const T*>(t.d);
  const int64_t begin = int64_t(blockIdx.x) * length;
  const int64_t end = begin + length < dim ? begin + length : dim;
  Parabola sum{0, 0, 0};
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum.add(double(w[i]), double(d[i]));
  const double mine[3] = {sum.xx, sum.xd, sum.dd};
  const double total = block_sums(mine, shared);
  if (threadIdx.x < 3) parts[int64_t(blockIdx.x) * 3 + threadIdx.x] = total;
}

// A thread has a row and kRatesOfThread rates: parts [blocks, K]; gridDim.x groups of rates.
template <class T>
__global__ void __launch_bounds__(kThreads)
    net_kernel(NetTrials net, Trials t, int64_t length, double* parts) {
  constexpr int N = kRatesOfThread;
  __shared__ double shared[N * kWarps];
  const T *first = static_cast<const T*>(net.first), *slope = static_cast<const T*>(net.slope);
  const T *second = static_cast<const T*>(net.second), *change = static_cast<const T*>(net.change);
  const T* rates = static_cast<const T*>(t.rates);
  const int64_t first_rate = int64_t(blockIdx.x) * N, biases = net.outputs * net.hidden;
  const int64_t begin = int64_t(blockIdx.y) * length;
  const int64_t end = begin + length < net.n ? begin + length : net.n;
  T rate[N];
#pragma unroll
  for (int k = 0; k < N; ++k) rate[k] = first_rate + k < t.count ? rates[first_rate + k] : T(0);
  double sums[N] = {};
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    LogSum<T> total[N];
    for (int64_t c = 0; c < net.outputs; ++c) {
      T z[N];
#pragma unroll
      for (int k = 0; k < N; ++k) z[k] = second[biases + c] - rate[k] * change[biases + c];
      for (int64_t h = 0; h < net.hidden; ++h) {
        const T x = first[h * net.n + i], s = slope[h * net.n + i];
        const T a = second[c * net.hidden + h], b = change[c * net.hidden + h];
#pragma unroll
        for (int k = 0; k < N; ++k) z[k] += (a - rate[k] * b) * relu(x - rate[k] * s);
      }
      if (!net.cross_entropy) {
        const T y = static_cast<const T*>(net.y)[i];
#pragma unroll
        for (int k = 0; k < N; ++k) sums[k] += bce_row(z[k], y);
        continue;
      }
      const bool wanted = static_cast<const int64_t*>(net.y)[i] == c;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if (wanted) sums[k] -= double(z[k]);
        total[k].add(z[k]);
      }
    }
    if (net.cross_entropy) {
      const int64_t label = static_cast<const int64_t*>(net.y)[i];
      const bool known = label >= 0 && label < net.outputs;  // of no other class there is a loss
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k] += known ? total[k].value() : NAN;
    }
  }
  const double total = block_sums(sums, shared);
  if (threadIdx.x < N && first_rate + threadIdx.x < t.count)
    parts[int64_t(blockIdx.y) * t.count + first_rate + threadIdx.x] = total;
}

// Where the losses come from.
struct Finish {
  const double *parts, *points;  // [blocks, 3] each, or [blocks, K] and null, or both null
  int64_t blocks, point_blocks;
  double n, lam, kappa;
  bool parabolas;
};

__device__ inline Parabola sum_parabolas(const double* parts, int64_t blocks, double* shared) {
  double mine[3] = {};
  for (int64_t b = threadIdx.x; b < blocks; b += kFinishThreads)
    for (int j = 0; j < 3; ++j) mine[j] += parts[3 * b + j];
  const double total = block_sums(mine, shared);
  if (threadIdx.x < 3) shared[threadIdx.x] = total;
  __syncthreads();
  const Parabola all{shared[0], shared[1], shared[2]};
  __syncthreads();
  return all;
}

template <class T>
__global__ void __launch_bounds__(kFinishThreads) finish_kernel(Finish f, Trials t) {
  __shared__ double shared[3 * kFinishThreads / 32];
  const int rank = int(threadIdx.x);
  T* losses = static_cast<T*>(t.losses);
  const T* rates = static_cast<const T*>(t.rates);
  if (f.parabolas) {
    const Parabola fit = sum_parabolas(f.parts, f.blocks, shared);
    const Parabola point =
        f.points ? sum_parabolas(f.points, f.point_blocks, shared) : Parabola{0, 0, 0};
    for (int64_t k = rank; k < t.count; k += kFinishThreads) {
      const double rate = double(rates[k]);
      losses[k] = T(trapped_loss(fit.at(rate), point.at(rate), f.n, f.lam, f.kappa));
    }
  } else if (f.parts) {
    for (int64_t k = rank / 32; k < t.count; k += kFinishThreads / 32) {
      double sum = 0;
      for (int64_t b = rank % 32; b < f.blocks; b += 32) sum += f.parts[b * t.count + k];
      sum = warp_sum(sum);
      if (rank % 32 == 0) losses[k] = T(sum / f.n);
    }
  }
  if (!t.moved) return;
  __syncthreads();  // the block sees the losses that its threads wrote
  T* p = static_cast<T*>(t.p);
  const auto good = [&](int64_t k) {
    return is_finite(double(losses[k])) && is_finite(double(rates[k]));
  };
  const auto score = [&](int64_t k) { return -t.beta * double(losses[k]); };
  const OnlineSoftmax found = block_softmax<kFinishThreads>(t.count, good, score);
  double rate[1] = {0};
  for (int64_t k = rank; k < t.count; k += kFinishThreads) {
    const double weight = good(k) ? exp_negative(score(k) - found.best) / found.sum : 0;
    p[k] = T(weight);
    if (good(k)) rate[0] += weight * double(rates[k]);
  }
  const double total = block_sums(rate, shared);
  if (rank == 0) *static_cast<T*>(t.rate) = T(total);
}

template <class T>
__global__ void __launch_bounds__(kThreads) move_kernel(Trials t, int64_t dim) {
  const T *w = static_cast<const T*>(t.w), *d = static_cast<const T*>(t.d);
  T* out = static_cast<T*>(t.moved);
  const T rate = *static_cast<const T*>(t.rate);
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < dim;
       i += int64_t(gridDim.x) * kThreads)
    out[i] = rate == T(0) ? w[i] : w[i] - rate * d[i];  // d may be infinite: the point stays
}

template <class T>
int finish(const Finish& f, const Trials& t, int64_t dim, cudaStream_t stream) {
  GPU_LAUNCH(finish_kernel<T>, 1, kFinishThreads, 0, stream, f, t);
  const cudaError_t error = cudaGetLastError();
  if (error || !t.moved) return int(error);
  const auto blocks = unsigned(std::min<int64_t>((dim + kThreads - 1) / kThreads, 1 << 16));
  GPU_LAUNCH(move_kernel<T>, blocks, kThreads, 0, stream, t, dim);
  return int(cudaGetLastError());
}

unsigned groups(int64_t count, int of) { return unsigned((count + of - 1) / of); }

template <class T>
int regression(const Regression& o, const Trials& t, cudaStream_t stream) {
  const Parts rows = row_parts(o.n), points = point_parts(o.dim);
  Finish f{t.workspace, nullptr, rows.count, points.count,
           double(o.n), o.lam,   o.kappa,    !o.logistic};
  if (o.logistic) {
    const dim3 grid(groups(t.count, kRatesOfBlock), unsigned(rows.count));
    GPU_LAUNCH(logistic_kernel<T>, grid, kThreads, 0, stream, o, t, rows.length, t.workspace);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
    return finish<T>(f, t, o.dim, stream);
  }
  GPU_LAUNCH(least_squares_kernel<T>, unsigned(rows.count), kThreads, 0, stream, o, t, rows.length,
             t.workspace);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  if (o.lam != 0) {
    double* parts = t.workspace + 3 * rows.count;
    GPU_LAUNCH(point_kernel<T>, unsigned(points.count), kThreads, 0, stream, t, o.dim,
               points.length, parts);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
    f.points = parts;
  }
  return finish<T>(f, t, o.dim, stream);
}

template <class T>
int net(const NetTrials& net, const Trials& t, int64_t dim, cudaStream_t stream) {
  const Parts rows = net_parts(net.n);
  const dim3 grid(groups(t.count, kRatesOfThread), unsigned(rows.count));
  GPU_LAUNCH(net_kernel<T>, grid, kThreads, 0, stream, net, t, rows.length, t.workspace);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  return finish<T>({t.workspace, nullptr, rows.count, 0, double(net.n), 0, 0, false}, t, dim,
                   stream);
}

template <class T>
int landscape(const LandscapeView& objective, const Trials& t, int64_t dim, void* stream) {
  const auto at = [](const void* p) { return static_cast<const T*>(p); };
  if (const int error = landscape_line(objective, at(t.w), at(t.d), at(t.rates), t.count, dim,
                                       static_cast<T*>(t.losses), t.workspace, stream))
    return error;
  if (!t.moved) return 0;
  return finish<T>({nullptr, nullptr, 0, 0, 0, 0, 0, false}, t, dim,
                   static_cast<cudaStream_t>(stream));
}

}  // namespace

int64_t regression_trials_workspace(int64_t n, int64_t dim, int64_t count) {
  return std::max<int64_t>(count, 3) * row_parts(n).count + 3 * point_parts(dim).count;
}
int64_t net_trials_workspace(int64_t n, int64_t count) { return count * net_parts(n).count; }
int64_t landscape_trials_workspace(int64_t dim, int64_t count) {
  return landscape_values_workspace(dim, count);
}

int regression_trials(const Regression& o, const Trials& trials, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return o.dtype == DType::f32 ? regression<float>(o, trials, s) : regression<double>(o, trials, s);
}

int net_trials(const NetTrials& o, const Trials& trials, int64_t dim, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return o.dtype == DType::f32 ? net<float>(o, trials, dim, s) : net<double>(o, trials, dim, s);
}

int landscape_trials(const LandscapeView& objective, const Trials& trials, int64_t dim, DType dtype,
                     void* stream) {
  return dtype == DType::f32 ? landscape<float>(objective, trials, dim, stream)
                             : landscape<double>(objective, trials, dim, stream);
}

}  // namespace unstuck::cuda
