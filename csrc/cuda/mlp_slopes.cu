// Losses of a multi-layer perceptron's outputs, and what its gradient is made of:
//
//   dW = slopes^T in,  db = 1^T slopes,  slopes <- (slopes W) activation'
#include "core/block.hpp"
#include "cuda/mlp_layers.hpp"
#include "cuda/product_tile.hpp"
#include "cuda/rows.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = kProductThreads, kWarps = kThreads / 32;
constexpr int kBiasColumns = 32, kBiasRows = kThreads / kBiasColumns;

template <Activation a, class R, int N>
__device__ void through_as(const R (&h)[N], R (&slopes)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) slopes[i] *= activation_slope<a>(h[i]);
}
// slopes *= activation'(h), from what slope_from_value() says.
template <class R, int N>
__device__ void through(Activation a, const R (&h)[N], R (&slopes)[N]) {
  if (a == Activation::relu) through_as<Activation::relu>(h, slopes);
  if (a == Activation::tanh) through_as<Activation::tanh>(h, slopes);
  if (a == Activation::sigmoid) through_as<Activation::sigmoid>(h, slopes);
  if (a == Activation::gelu) through_as<Activation::gelu>(h, slopes);
  if (a == Activation::gelu_tanh) through_as<Activation::gelu_tanh>(h, slopes);
}

template <class R>
__device__ void put_slope(const LossPass<R>& p, int64_t at, R slope) {
  R one[1] = {slope};
  const R h[1] = {p.active[at]};
  through(p.activation, h, one);
  p.slopes[at] = one[0];
}

template <class R>
__device__ double elementwise_losses(const LossPass<R>& p, int64_t begin) {
  const R* y = static_cast<const R*>(p.y);
  double total = 0;
  for (int64_t i = threadIdx.x; i < p.rows * p.outputs; i += kThreads) {
    const R z = p.out[begin + i];
    if (p.loss == MlpLoss::squared) {
      const R gap = z - y[i];
      total += double(gap * gap);
      if (p.slopes) put_slope(p, begin + i, R(2) * R(p.factor) * gap);
    } else {
      total += bce_row(z, y[i]);
      if (p.slopes) put_slope(p, begin + i, R(p.factor) * bce_slope(z, y[i]));
    }
  }
  return total;
}

// As many lanes as outputs have a row of their own, 32 at most. A class that does not exist has no
// loss.
template <class R>
__device__ double class_losses(const LossPass<R>& p, int64_t begin) {
  const int64_t* labels = static_cast<const int64_t*>(p.y);
  int lanes = 1;
  while (lanes < 32 && lanes < p.outputs) lanes *= 2;
  const int rank = int(threadIdx.x) % lanes, abreast = kThreads / lanes;
  double total = 0;
  for (int64_t start = 0; start < p.rows; start += abreast) {
    const int64_t row = start + int(threadIdx.x) / lanes;
    const bool there = row < p.rows;
    const int64_t first = begin + (there ? row : p.rows - 1) * p.outputs;
    R top = p.out[first];
    for (int64_t c = rank; c < p.outputs; c += lanes)
      top = p.out[first + c] > top ? p.out[first + c] : top;
    for (int far = lanes / 2; far; far /= 2) {
      const R other = __shfl_xor_sync(kAll, top, far);
      top = other > top ? other : top;
    }
    R sum = R(0);
    for (int64_t c = rank; c < p.outputs; c += lanes) {
      const R x = p.out[first + c] - top;
      sum += exp_negative(x) + (x - x);  // NaN stays
    }
    for (int far = lanes / 2; far; far /= 2) sum += __shfl_xor_sync(kAll, sum, far);
    const int64_t label = labels[there ? row : p.rows - 1];
    const bool known = uint64_t(label) < uint64_t(p.outputs);
    if (there && rank == 0)
      total +=
          double(top) + log(double(sum)) - (known ? double(p.out[first + label]) : double(NAN));
    if (!there || !p.slopes) continue;
    const R share = R(p.factor) / sum;
    for (int64_t c = rank; c < p.outputs; c += lanes) {
      const R x = p.out[first + c] - top;
      const R slope = (exp_negative(x) + (x - x)) * share;
      put_slope(p, first + c, c == label ? slope - R(p.factor) : slope);
    }
  }
  return total;
}

// A block has a candidate.
template <class R>
__global__ void __launch_bounds__(kThreads) loss_kernel(GPU_GRID_CONSTANT(LossPass<R>) p) {
  __shared__ double shared[kWarps];
  const int64_t candidate = blockIdx.x, begin = candidate * p.rows * p.outputs;
  const double mine[1] = {p.loss == MlpLoss::cross_entropy ? class_losses(p, begin)
                                                           : elementwise_losses(p, begin)};
  const double total = block_sums(mine, shared);
  if (threadIdx.x) return;
  const double sum = p.fresh ? total : p.sums[candidate] + total;
  p.sums[candidate] = sum;
  if (p.done) p.losses[candidate] = R(sum * p.factor);
}

// A block has 128 inputs and 64 units of one candidate: the slopes of the weights between them.
template <class R>
__global__ void __launch_bounds__(kThreads) weight_kernel(GPU_GRID_CONSTANT(SlopePass<R>) pass) {
  __shared__ ProductTile<R> tile;
  const MlpLayer& m = pass.layer;
  const ProductPlace place(m.in, m.out);
  const R* in = pass.in.data + place.candidate * pass.in.candidate;
  const R* slopes = pass.slopes + place.candidate * pass.rows * m.out;
  R sums[kRowsOfThread][kColumnsOfThread] = {};
  add_products<Along::side, Along::side>(
      tile, pass.rows,
      [&](int i, int64_t k) {
        const int64_t at = place.row + i;
        return in[k * pass.in.row + (at < m.in ? at : m.in - 1)];
      },
      [&](int j, int64_t k) {
        const int64_t at = place.column + j;
        return slopes[k * m.out + (at < m.out ? at : m.out - 1)];
      },
      [](int64_t) {}, sums);
  R* to = pass.gradients + place.candidate * pass.dim + m.weight;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r)
#pragma unroll
    for (int c = 0; c < kColumnsOfThread; ++c) {
      const int64_t i = place.row + product_row(r), u = place.column + product_column(c);
      if (i < m.in && u < m.out) to[u * m.in + i] += sums[r][c];
    }
}

// A block has 32 units, eight threads each.
template <class R>
__global__ void __launch_bounds__(kThreads) bias_kernel(GPU_GRID_CONSTANT(SlopePass<R>) pass) {
  __shared__ double parts[kBiasRows][kBiasColumns];
  const int64_t out = pass.layer.out, across = (out + kBiasColumns - 1) / kBiasColumns;
  const int64_t candidate = int64_t(blockIdx.x) / across;
  const int column = int(threadIdx.x) % kBiasColumns, part = int(threadIdx.x) / kBiasColumns;
  const int64_t u = int64_t(blockIdx.x) % across * kBiasColumns + column;
  const R* slopes = pass.slopes + candidate * pass.rows * out;
  double sum = 0;
  for (int64_t row = part; u < out && row < pass.rows; row += kBiasRows)
    sum += double(slopes[row * out + u]);
  parts[part][column] = sum;
  __syncthreads();
  if (part || u >= out) return;
  for (int p = 1; p < kBiasRows; ++p) sum += parts[p][column];
  pass.gradients[candidate * pass.dim + pass.layer.bias + u] += R(sum);
}

// A block has 128 rows and 64 inputs of one candidate: the slopes of these inputs.
template <class R>
__global__ void __launch_bounds__(kThreads) input_kernel(GPU_GRID_CONSTANT(SlopePass<R>) pass) {
  __shared__ ProductTile<R> tile;
  const MlpLayer& m = pass.layer;
  const ProductPlace place(pass.rows, m.in);
  const R* slopes = pass.slopes + place.candidate * pass.rows * m.out;
  const R* weights = pass.points + place.candidate * pass.dim + m.weight;
  R sums[kRowsOfThread][kColumnsOfThread] = {};
  add_products<Along::depth, Along::side>(
      tile, m.out,
      [&](int i, int64_t k) {
        const int64_t at = place.row + i;
        return slopes[(at < pass.rows ? at : pass.rows - 1) * m.out + k];
      },
      [&](int j, int64_t k) {
        const int64_t at = place.column + j;
        return weights[k * m.in + (at < m.in ? at : m.in - 1)];
      },
      [](int64_t) {}, sums);
  each_row(sums, [&](int i, R(&x)[kColumnsOfThread]) {
    const int64_t at = place.row + i;
    if (at >= pass.rows) return;
    const int64_t line = (place.candidate * pass.rows + at) * m.in + place.column;
    const int64_t width = m.in - place.column;
    R h[kColumnsOfThread];
#pragma unroll
    for (int c = 0; c < kColumnsOfThread; ++c)
      h[c] = product_column(c) < width ? pass.active[line + product_column(c)] : R(0);
    through(pass.activation, h, x);
#pragma unroll
    for (int c = 0; c < kColumnsOfThread; ++c)
      if (product_column(c) < width) pass.next[line + product_column(c)] = x[c];
  });
}

}  // namespace

template <class R>
int loss_pass(const LossPass<R>& pass, cudaStream_t stream) {
  GPU_LAUNCH(loss_kernel<R>, unsigned(pass.count), kThreads, 0, stream, pass);
  return int(cudaGetLastError());
}

template <class R>
int slope_pass(const SlopePass<R>& pass, cudaStream_t stream) {
  const MlpLayer& m = pass.layer;
  GPU_LAUNCH(weight_kernel<R>, product_blocks(m.in, m.out, pass.count), kThreads, 0, stream, pass);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  if (m.bias >= 0) {
    const int64_t across = (m.out + kBiasColumns - 1) / kBiasColumns;
    GPU_LAUNCH(bias_kernel<R>, unsigned(across * pass.count), kThreads, 0, stream, pass);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
  }
  if (!pass.next) return 0;
  GPU_LAUNCH(input_kernel<R>, product_blocks(pass.rows, m.in, pass.count), kThreads, 0, stream,
             pass);
  return int(cudaGetLastError());
}

#define UNSTUCK_MLP_SLOPES(R)                               \
  template int loss_pass(const LossPass<R>&, cudaStream_t); \
  template int slope_pass(const SlopePass<R>&, cudaStream_t);
UNSTUCK_MLP_SLOPES(float)
UNSTUCK_MLP_SLOPES(double)

}  // namespace unstuck::cuda
