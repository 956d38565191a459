// Layers of a multi-layer perceptron: a block has 128 rows and 64 units of one candidate. The
// weights of the units are made in shared memory as they are read, a few columns at a time.
#include "cuda/mlp_layers.hpp"

#include <algorithm>

#include "cuda/product_tile.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = kProductThreads;

template <class R, bool noise>
struct Memory {
  ProductTile<R> tile;
  R bias[kProductColumns];
  NoiseRing ring;
};
template <class R>
struct Memory<R, false> {
  ProductTile<R> tile;
  R bias[kProductColumns];
};

template <Activation a, class R, int N>
__device__ void activate_as(R (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = activated<a>(x[i]);
}
template <class R, int N>
__device__ void activate(Activation a, R (&x)[N]) {
  if (a == Activation::relu) activate_as<Activation::relu>(x);
  if (a == Activation::tanh) activate_as<Activation::tanh>(x);
  if (a == Activation::sigmoid) activate_as<Activation::sigmoid>(x);
  if (a == Activation::gelu) activate_as<Activation::gelu>(x);
  if (a == Activation::gelu_tanh) activate_as<Activation::gelu_tanh>(x);
}

// Writes the columns of a thread that are there.
template <class R>
__device__ void store(R* row, int64_t first, int64_t width, const R (&x)[kColumnsOfThread]) {
#pragma unroll
  for (int c = 0; c < kColumnsOfThread; ++c) {
    const int64_t column = first + product_column(c);
    if (column < width) row[column] = x[c];
  }
}

template <class R, class Source>
__global__ void __launch_bounds__(kThreads)
    layer_kernel(GPU_GRID_CONSTANT(LayerPass<R>) pass, GPU_GRID_CONSTANT(Source) source) {
  __shared__ Memory<R, Source::kNoise> memory;
  const MlpLayer& m = pass.layer;
  const ProductPlace place(pass.rows, m.out);
  const int64_t unit = place.candidate, u0 = place.column;
  int64_t who = pass.first + unit;
  if constexpr (Source::kPairs) who = pass.first / source.share() + unit;
  const auto here = source.at(who);
  const int units = int(m.out - u0 < kProductColumns ? m.out - u0 : kProductColumns);
  const auto inside_unit = [&](int u) { return u < units ? u : units - 1; };
  if (int(threadIdx.x) < units) {
    const int64_t c = m.bias + u0 + threadIdx.x;
    float eps = 0;
    if constexpr (Source::kNoise)
      if (m.bias >= 0) eps = draw_one(source.draw.key, here.unit, c);
    memory.bias[threadIdx.x] = m.bias < 0 ? R(0) : here.weight(c, eps);
  }
  const int64_t first = m.weight + u0 * m.in;
  const R* in = pass.in.data + unit * pass.in.candidate;
  const auto row = [&](int i, int64_t k) {
    const int64_t at = place.row + i;  // beyond the last: reads that twice, nobody uses it
    return in[(at < pass.rows ? at : pass.rows - 1) * pass.in.row + k];
  };
  const auto column = [&](int j, int64_t k) {
    const int u = inside_unit(j);
    const int64_t c = first + u * m.in + k;
    if constexpr (Source::kNoise)
      return here.weight(c, memory.ring.at(u, c));
    else
      return here.weight(c, 0);
  };
  const auto prepare = [&](int64_t start) {
    if constexpr (Source::kNoise)
      if (start % kNoiseGroup == 0) {
        memory.ring.draw(source.draw.key, here.unit, first, m.in, units, start);
        __syncthreads();
      }
  };
  R sums[kRowsOfThread][kColumnsOfThread] = {};
  add_products<Along::depth, Along::depth>(memory.tile, m.in, row, column, prepare, sums);
  each_row(sums, [&](int i, R(&x)[kColumnsOfThread]) {
    const int64_t at = place.row + i;
    if (at >= pass.rows) return;
#pragma unroll
    for (int c = 0; c < kColumnsOfThread; ++c)
      if (product_column(c) < units) x[c] += memory.bias[product_column(c)];
    if constexpr (Source::kPairs) {
      const int64_t share = source.share(), begin = unit * share;
#pragma unroll 1
      for (int64_t k = begin; k < begin + share && k < pass.count; ++k) {
        const R step = source.step(pass.first + k);
        R h[kColumnsOfThread];
#pragma unroll
        for (int c = 0; c < kColumnsOfThread; ++c)
          h[c] = pass.base[at * m.out + u0 + inside_unit(product_column(c))] + step * x[c];
        activate(m.activation, h);
        store(pass.out + (k * pass.rows + at) * m.out, u0, m.out, h);
      }
    } else {
      const int64_t line = (unit * pass.rows + at) * m.out;
      if (pass.before) store(pass.before + line, u0, m.out, x);
      activate(m.activation, x);
      store(pass.out + line, u0, m.out, x);
    }
  });
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    line_kernel(Activation activation, const R* base, const R* along, const R* rates, int64_t size,
                int64_t count, R* out) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < size * count;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t at = i % size;
    R x[1] = {base[at] + -rates[i / size] * along[at]};
    activate(activation, x);
    out[i] = x[0];
  }
}

}  // namespace

template <class R, class Source>
int layer_pass(const LayerPass<R>& pass, const Source& source, cudaStream_t stream) {
  int64_t units = pass.count;
  if constexpr (Source::kPairs) units = (pass.count + source.share() - 1) / source.share();
  const auto kernel = layer_kernel<R, Source>;
  GPU_LAUNCH(kernel, product_blocks(pass.rows, pass.layer.out, units), kThreads, 0, stream, pass,
             source);
  return int(cudaGetLastError());
}

template <class R>
int line_pass(Activation activation, const R* base, const R* along, const R* rates, int64_t size,
              int64_t count, R* out, cudaStream_t stream) {
  const int64_t blocks = std::min<int64_t>((size * count + kThreads - 1) / kThreads, 1 << 16);
  GPU_LAUNCH(line_kernel<R>, unsigned(blocks), kThreads, 0, stream, activation, base, along, rates,
             size, count, out);
  return int(cudaGetLastError());
}

#define UNSTUCK_MLP_LAYERS(R)                                                            \
  template int layer_pass(const LayerPass<R>&, const PointWeights<R>&, cudaStream_t);    \
  template int layer_pass(const LayerPass<R>&, const LineWeights<R>&, cudaStream_t);     \
  template int layer_pass(const LayerPass<R>&, const RegionWeights<R>&, cudaStream_t);   \
  template int layer_pass(const LayerPass<R>&, const ChangeWeights<R>&, cudaStream_t);   \
  template int line_pass(Activation, const R*, const R*, const R*, int64_t, int64_t, R*, \
                         cudaStream_t);
UNSTUCK_MLP_LAYERS(float)
UNSTUCK_MLP_LAYERS(double)

}  // namespace unstuck::cuda
