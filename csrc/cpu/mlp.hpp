// Losses of a multi-layer perceptron at many parameter vectors, whose weights are made as they are
// read: nothing of the size of the parameters is kept for any of them.
#pragma once
#include <vector>

#include "candidate_terms.hpp"
#include "math/activation.hpp"

namespace unstuck::cpu {

// h <- activation(W h + b); W [out, in] and b [out] stand at these places of the flat vector.
struct MlpLayer {
  int64_t in, out, weight, bias;  // bias -1: none
  Activation activation;
};
enum class MlpLoss : int { squared, bce, cross_entropy };
constexpr int kMlpLosses = 3;

// The loss is `factor` times the sum over rows (squared, bce: and outputs).
struct MlpData {
  const void *x, *y;  // [n, features] with `stride` between rows; [n, outputs] or int64 [n]
  int64_t n, features, stride, dim;
  std::vector<MlpLayer> layers;
  MlpLoss loss;
  double factor;
  int64_t outputs() const { return layers.back().out; }
};

// At `points` [count, dim]; the gradients [count, dim] too, unless null.
template <class R>
void mlp_points(const MlpData& net, const R* points, int64_t count, R* losses, R* gradients,
                int threads);
template <class R>
void mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                    int64_t count, R* losses, int threads);
// At w - rates[k] d; the first layer's products are made once.
template <class R>
void mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count, R* losses,
              int threads);

}  // namespace unstuck::cpu
