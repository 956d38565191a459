// What the binding hands to the kernels of multi-layer perceptrons, whatever the device.
#pragma once
#include <cstdint>
#include <vector>

#include "math/activation.hpp"

namespace unstuck {

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

}  // namespace unstuck
