// The regressions on CUDA: gradients, and losses of candidates.
//
//   rows         X w - y, or X w where the loss is logistic, and each block's part of the loss
//   columns      each block's part of the gradient: 32 columns of a slice of the rows
//   gradient     adds the parts up in a fixed order
//
// With e = scale eps a candidate is w = mean + sigma e, so that both of an antithetic pair come
// from one product X e:
//
//   rows         X mean - y
//   candidates   q = X e for 32 e at a time, which a block draws into shared memory, and their
//   parts
//                of r.q and q.q, or the losses of both signs
//   losses       adds the parts up in a fixed order
#include "cuda/candidate_points.hpp"
#include "cuda/objectives.hpp"
#include "cuda/rows.hpp"
#include "cuda/tile.hpp"
#include "math/trials.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kChunk = 256;  // rows whose part of the gradient is summed before it is float64
constexpr int kColumns = 32;

Parts row_parts(int64_t n) { return Parts(n, kRows * kWarps); }
// Slices of the rows so that there are blocks enough for a device, where each has `tiles`.
Parts slices(int64_t n, int64_t unit, int64_t tiles) {
  return Parts(n, unit, std::max<int64_t>(kMostBlocks / std::max<int64_t>(tiles, 1), 1));
}

// parts [blocks, 2]: of the loss, or of its residuals' squares, and of norm(w)^2.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(Regression o, const T* w, int64_t length, T* base, double* parts) {
  __shared__ double shared[2 * kWarps];
  const int64_t begin = int64_t(blockIdx.x) * length;
  const int64_t end = begin + length < o.n ? begin + length : o.n;
  const T *y = static_cast<const T*>(o.y), *const vectors[1] = {w};
  double sums[2] = {0, 0};
  for (int64_t i = begin + int64_t(threadIdx.x) / 32 * kRows; i < end; i += kRows * kWarps) {
    double products[1][kRows];
    multiply_rows(o, vectors, i, end, products);
    if (threadIdx.x % 32) continue;  // all lanes have the same
    for (int r = 0; r < kRows && i + r < end; ++r) {
      const double residual = products[0][r] - double(y[i + r]);
      const T z = T(o.logistic ? products[0][r] : residual);
      base[i + r] = z;
      sums[0] += o.logistic ? bce_row(z, y[i + r]) : residual * residual;
    }
  }
  if (o.lam != 0) {
    const int64_t last = o.dim * (blockIdx.x + 1) / gridDim.x;
    for (int64_t c = o.dim * blockIdx.x / gridDim.x + threadIdx.x; c < last; c += kThreads)
      sums[1] += double(w[c]) * double(w[c]);
  }
  const double total = block_sums(sums, shared);
  if (threadIdx.x < 2) parts[2 * int64_t(blockIdx.x) + threadIdx.x] = total;
}

// What rows_kernel() left.
struct Rows {
  const double* parts;
  int64_t blocks;
};
// The sums of its parts, for every thread of a block.
__device__ inline void sum_rows(const Rows& rows, double& loss, double& square) {
  __shared__ double shared[2 * kWarps], totals[2];
  double mine[2] = {0, 0};
  for (int64_t b = threadIdx.x; b < rows.blocks; b += kThreads) {
    mine[0] += rows.parts[2 * b];
    mine[1] += rows.parts[2 * b + 1];
  }
  const double total = block_sums(mine, shared);
  if (threadIdx.x < 2) totals[threadIdx.x] = total;
  __syncthreads();
  loss = totals[0];
  square = totals[1];
}

// parts [slices, D]. A warp takes a row of 32 columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    columns_kernel(Regression o, const T* base, int64_t length, double* parts) {
  __shared__ T factors[kChunk];
  __shared__ double shared[kWarps][kColumns];
  const int rank = int(threadIdx.x), lane = rank % 32, warp = rank / 32;
  const int64_t begin = int64_t(blockIdx.y) * length, c = int64_t(blockIdx.x) * kColumns + lane;
  const int64_t end = begin + length < o.n ? begin + length : o.n;
  const T *x = static_cast<const T*>(o.x), *y = static_cast<const T*>(o.y);
  double total = 0;
  for (int64_t start = begin; start < end; start += kChunk) {
    const int rows = int(end - start < kChunk ? end - start : kChunk);
    if (rank < rows) {
      const T z = base[start + rank];
      factors[rank] = o.logistic ? bce_slope(z, y[start + rank]) : T(2) * z;
    }
    __syncthreads();
    T sum = T(0);
    if (c < o.dim)
      for (int r = warp; r < rows; r += kWarps) sum += factors[r] * x[(start + r) * o.stride + c];
    total += double(sum);
    __syncthreads();
  }
  shared[warp][lane] = total;
  __syncthreads();
  if (warp || c >= o.dim) return;
  total = 0;
  for (int v = 0; v < kWarps; ++v) total += shared[v][lane];
  parts[int64_t(blockIdx.y) * o.dim + c] = total;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(Regression o, Rows rows, const double* parts, int64_t count, const T* w,
                    T* loss, T* gradient) {
  double residual, square;
  sum_rows(rows, residual, square);
  const double n = double(o.n), pull = trapped_pull(square, o.lam, o.kappa);
  if (blockIdx.x == 0 && threadIdx.x == 0)
    *loss = T(trapped_loss(residual, square, n, o.lam, o.kappa));
  for (int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x; c < o.dim;
       c += int64_t(gridDim.x) * kThreads) {
    double sum = 0;
    for (int64_t s = 0; s < count; ++s) sum += parts[s * o.dim + c];
    gradient[c] = T(sum / n + (o.lam != 0 ? pull * double(w[c]) : 0.0));
  }
}

// Candidates as pairs or alone: units, each with one e.
struct Units {
  int64_t count;  // of candidates
  int share;
  __host__ __device__ int64_t units() const { return (count + share - 1) / share; }
  __device__ bool has(int64_t unit, int s) const { return s < share && unit * share + s < count; }
  template <class R>
  __device__ R sigma(const RegionView<R>& region, int64_t unit, int s) const {
    if (!has(unit, s)) return R(0);
    const R size = sigma_of(region, unit * share + s);
    return s ? -size : size;
  }
};

// Columns c, c + 1, ... of 32 e from `first` on; `square` gets what they add to mean.e and e.e
// where that is wanted.
template <class R>
__device__ void draw_vectors(Tile<R>& tile, const RegionView<R>& region, const NoiseKey& key,
                             int64_t first, int64_t units, int64_t c, bool wanted,
                             double (&square)[2][2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int lane = int(threadIdx.x) % kNoiseLanes;
    const int vector = int(threadIdx.x) / kNoiseLanes + half * kTileVectors / 2;
    float eps[4] = {0, 0, 0, 0};
    if (first + vector < units)
      draw_normals(block_of(c + lane), uint32_t(first + vector), key, eps);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int k = lane + j * kNoiseLanes;
      if (c + k >= region.dim) continue;
      const R e = (region.scale ? region.scale[c + k] : R(1)) * R(eps[j]);
      tile.vectors[vector][k] = e;
      if (!wanted) continue;
      square[half][0] += double(region.mean[c + k]) * double(e);
      square[half][1] += double(e) * double(e);
    }
  }
}

// parts [slices, 2, units]: r.q and q.q, or the losses of both signs; squares [2, units]: mean.e
// and e.e, where they are wanted.
template <class R>
__global__ void __launch_bounds__(kTileThreads)
    candidates_kernel(Regression o, GPU_GRID_CONSTANT(RegionView<R>) region, DrawView draw,
                      Units all, int64_t length, const R* base, double* parts, double* squares) {
  __shared__ Tile<R> tile;
  __shared__ double shared[kWarps][2][kTileVectors];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t first = int64_t(blockIdx.x) * kTileVectors, units = all.units();
  const int64_t begin = int64_t(blockIdx.y) * length;
  const int64_t end = begin + length < o.n ? begin + length : o.n;
  const R *x = static_cast<const R*>(o.x), *y = static_cast<const R*>(o.y);
  const bool measured = o.lam != 0 && blockIdx.y == 0;
  R sigma[2][kOwnVectors];
  double total[2][kOwnVectors] = {}, square[2][2] = {};
#pragma unroll
  for (int s = 0; s < 2; ++s)
#pragma unroll
    for (int v = 0; v < kOwnVectors; ++v)
      sigma[s][v] = all.sigma(region, first + tile_vector() + kAcross * v, s);
  for (int64_t row = begin; row < end; row += kTileRows) {
    R q[kOwnRows][kOwnVectors] = {};
    for (int64_t c = 0; c < o.dim; c += kTileDepth) {
      const int depth = int(o.dim - c < kTileDepth ? o.dim - c : kTileDepth);
      draw_vectors(tile, region, draw.key, first, units, c, measured && row == begin, square);
      multiply_tile(tile, x + row * o.stride + c, o.stride, end - row, depth, q);
    }
    R sums[2][kOwnVectors] = {};
    for (int r = 0; r < kOwnRows; ++r) {
      const int64_t i = row + tile_row() + kDown * r;
      if (i >= end) break;
      const R here = base[i];
#pragma unroll
      for (int v = 0; v < kOwnVectors; ++v) {
        if (!o.logistic) {
          sums[0][v] += here * q[r][v];
          sums[1][v] += q[r][v] * q[r][v];
          continue;
        }
        total[0][v] += bce_row(here + sigma[0][v] * q[r][v], y[i]);
        if (all.share > 1) total[1][v] += bce_row(here + sigma[1][v] * q[r][v], y[i]);
      }
    }
#pragma unroll
    for (int k = 0; k < 2; ++k)
#pragma unroll
      for (int v = 0; v < kOwnVectors; ++v) total[k][v] += double(sums[k][v]);
  }
#pragma unroll
  for (int k = 0; k < 2; ++k)
#pragma unroll
    for (int v = 0; v < kOwnVectors; ++v) {
      double sum = total[k][v];  // of the four rows that a warp has at a time
      sum += __shfl_xor_sync(kAll, sum, kAcross);
      sum += __shfl_xor_sync(kAll, sum, 2 * kAcross);
      if (lane < kAcross) shared[warp][k][lane + kAcross * v] = sum;
    }
  __syncthreads();
  if (warp < 2 && first + lane < units) {
    double sum = 0;
    for (int v = 0; v < kWarps; ++v) sum += shared[v][warp][lane];
    parts[(2 * int64_t(blockIdx.y) + warp) * units + first + lane] = sum;
  }
  if (!measured) return;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      double sum = square[half][k];
      for (int far = kNoiseLanes / 2; far; far /= 2) sum += __shfl_xor_sync(kAll, sum, far);
      const int64_t unit =
          first + int(threadIdx.x) / kNoiseLanes + half * int64_t(kTileVectors) / 2;
      if (threadIdx.x % kNoiseLanes == 0 && unit < units) squares[k * units + unit] = sum;
    }
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    losses_kernel(Regression o, Rows rows, GPU_GRID_CONSTANT(RegionView<R>) region, Units all,
                  const double* parts, int64_t count, const double* squares, R* losses) {
  double residual, square;
  sum_rows(rows, residual, square);
  const int64_t units = all.units();
  for (int64_t u = int64_t(blockIdx.x) * kThreads + threadIdx.x; u < units;
       u += int64_t(gridDim.x) * kThreads) {
    double sums[2] = {0, 0};
    for (int64_t s = 0; s < count; ++s)
#pragma unroll
      for (int k = 0; k < 2; ++k) sums[k] += parts[(2 * s + k) * units + u];
    const Parabola fit{residual, -sums[0], sums[1]};
    Parabola point{square, 0, 0};
    if (o.lam != 0) point = {square, -squares[u], squares[units + u]};
    for (int s = 0; all.has(u, s); ++s) {
      const double sigma = double(all.sigma(region, u, s)), n = double(o.n);
      losses[u * all.share + s] =
          R(o.logistic ? sums[s] / n
                       : trapped_loss(fit.at(sigma), point.at(sigma), n, o.lam, o.kappa));
    }
  }
}

template <class T>
int launch_rows(const Regression& o, const T* w, T* base, double* parts, cudaStream_t stream) {
  const Parts rows = row_parts(o.n);
  GPU_LAUNCH(rows_kernel<T>, unsigned(rows.count), kThreads, 0, stream, o, w, rows.length, base,
             parts);
  return int(cudaGetLastError());
}

unsigned blocks_for(int64_t threads) {
  return unsigned(std::min<int64_t>((threads + kThreads - 1) / kThreads, 4096));
}

int64_t column_tiles(int64_t dim) { return (dim + kColumns - 1) / kColumns; }
Parts column_parts(int64_t n, int64_t dim) { return slices(n, kChunk, column_tiles(dim)); }

template <class T>
int gradient_of(const Regression& o, const T* w, T* loss, T* gradient, double* workspace,
                cudaStream_t stream) {
  const Parts columns = column_parts(o.n, o.dim);
  const Rows rows{workspace, row_parts(o.n).count};
  double* parts = workspace + 2 * rows.blocks;
  T* base = reinterpret_cast<T*>(parts + columns.count * o.dim);
  if (const int error = launch_rows(o, w, base, workspace, stream)) return error;
  const dim3 grid(unsigned(column_tiles(o.dim)), unsigned(columns.count));
  GPU_LAUNCH(columns_kernel<T>, grid, kThreads, 0, stream, o, base, columns.length, parts);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  GPU_LAUNCH(gradient_kernel<T>, blocks_for(o.dim), kThreads, 0, stream, o, rows, parts,
             columns.count, w, loss, gradient);
  return int(cudaGetLastError());
}

int64_t groups(const Units& all) { return (all.units() + kTileVectors - 1) / kTileVectors; }
Parts candidate_parts(int64_t n, const Units& all) { return slices(n, kTileRows, groups(all)); }

}  // namespace

int64_t regression_gradient_workspace(int64_t n, int64_t dim) {
  return 2 * row_parts(n).count + column_parts(n, dim).count * dim + n;
}

int regression_gradient(const Regression& o, const void* w, void* loss, void* gradient,
                        double* workspace, void* stream) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    return gradient_of(o, static_cast<const T*>(w), static_cast<T*>(loss),
                       static_cast<T*>(gradient), workspace, static_cast<cudaStream_t>(stream));
  };
  return o.dtype == DType::f32 ? run(float()) : run(double());
}

int64_t linear_candidates_workspace(int64_t n, int64_t count, bool antithetic) {
  const Units all{count, antithetic ? 2 : 1};
  return 2 * row_parts(n).count + 2 * (candidate_parts(n, all).count + 1) * all.units() + n;
}

template <class R>
int linear_candidates(const Regression& o, const RegionView<R>& region, const DrawView& draw,
                      int64_t count, R* losses, double* workspace, void* to) {
  if (!count) return 0;
  const auto stream = static_cast<cudaStream_t>(to);
  const Units all{count, draw.antithetic ? 2 : 1};
  const Parts cut = candidate_parts(o.n, all);
  const Rows rows{workspace, row_parts(o.n).count};
  double* parts = workspace + 2 * rows.blocks;
  double* squares = parts + 2 * cut.count * all.units();
  R* base = reinterpret_cast<R*>(squares + 2 * all.units());
  if (const int error = launch_rows(o, region.mean, base, workspace, stream)) return error;
  const dim3 grid(unsigned(groups(all)), unsigned(cut.count));
  GPU_LAUNCH(candidates_kernel<R>, grid, kTileThreads, 0, stream, o, region, draw, all, cut.length,
             base, parts, squares);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  GPU_LAUNCH(losses_kernel<R>, blocks_for(all.units()), kThreads, 0, stream, o, rows, region, all,
             parts, cut.count, squares, losses);
  return int(cudaGetLastError());
}

template int linear_candidates(const Regression&, const RegionView<float>&, const DrawView&,
                               int64_t, float*, double*, void*);
template int linear_candidates(const Regression&, const RegionView<double>&, const DrawView&,
                               int64_t, double*, double*, void*);

}  // namespace unstuck::cuda
