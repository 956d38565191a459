// The steps of a multi-layer perceptron on the device, a launch each. All return a cudaError_t.
#pragma once
#include "cuda/mlp_weights.hpp"
#include "mlp_terms.hpp"

namespace unstuck::cuda {

// Rows of numbers [candidates, rows, width], or the same for all candidates.
template <class R>
struct Panel {
  R* data;
  int64_t row, candidate;  // distances
};

// A layer at `rows` rows, for candidates from `first` on: out = activation(W in + b), and where
// wanted what is activated. A source of pairs has out = activation(base + step (W in + b)).
template <class R>
struct LayerPass {
  MlpLayer layer;
  Panel<const R> in;
  R *out, *before;  // [candidates, rows, layer.out]; before may be null
  const R* base;    // [rows, layer.out] for pairs
  int64_t rows, first, count;
};
template <class R, class Source>
int layer_pass(const LayerPass<R>& pass, const Source& source, cudaStream_t stream);

// out[k] = activation(base - rates[k] along), `size` numbers for each of `count` rates.
template <class R>
int line_pass(Activation activation, const R* base, const R* along, const R* rates, int64_t size,
              int64_t count, R* out, cudaStream_t stream);

// Adds the losses of `rows` rows to sums[candidate], which it begins when `fresh`; when `done`, the
// losses are factor times these.
template <class R>
struct LossPass {
  MlpLoss loss;
  double factor;
  const void* y;    // of the first of these rows
  const R* out;     // [count, rows, outputs]
  R* slopes;        // the same, of what the last layer activates; null: not wanted
  const R* active;  // the same: what the slope of this layer's activation is made of
  Activation activation;
  int64_t rows, outputs, count;
  bool fresh, done;
  double* sums;  // [count]
  R* losses;     // [count]
};
template <class R>
int loss_pass(const LossPass<R>& pass, cudaStream_t stream);

// Adds one layer's part to the gradients, and makes the slopes of what the layer before activates.
template <class R>
struct SlopePass {
  MlpLayer layer;
  Panel<const R> in;
  const R* slopes;        // [count, rows, layer.out]
  R* next;                // [count, rows, layer.in]; null for the first layer
  const R* active;        // the same: what the slope of its activation is made of
  Activation activation;  // of the layer before
  const R* points;        // [count, dim]
  R* gradients;           // the same
  int64_t rows, count, dim;
};
template <class R>
int slope_pass(const SlopePass<R>& pass, cudaStream_t stream);

}  // namespace unstuck::cuda
