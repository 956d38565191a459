// What a blend step works on, as plain memory: filled by the bindings, read by the CPU and CUDA
// kernels.
#pragma once
#include <cstddef>

#include "core/dtype.hpp"
#include "core/scalar.hpp"
#include "math/gate.hpp"

namespace unstuck {

struct BlendTensor {
  void *w, *g, *m, *v;
  void* buffer;     // momentum_buffer, where it is not shared with exp_avg
  void* direction;  // the SGD direction of the last step, kept where the state does not tell it
  float* step;
  int64_t numel;
  DType dtype;
  bool has_buffer, has_direction;  // an empty tensor has them too, without memory
  bool had_previous;               // the last step moved it
  int32_t group;
  int32_t unit;  // of its group's gate
};

struct BlendGroupStep {
  BlendGroup group;
  Scalar lr, alpha;
  GateConfig gate_config;
  double* gate;  // null: alpha is given, and no statistics are taken
  double* sums;  // [units, kBlendSums], where there is a gate

  // The group as it stands now, with device scalars read in.
  UNSTUCK_HD BlendGroup resolved() const {
    BlendGroup g = group;
    if (lr.data) g.rates.lr = lr.load();
    g.rates.sgd_lr = g.rates.lr * g.sgd_lr_ratio;
    if (alpha.data) g.alpha = alpha.load();
    return g;
  }
};

struct BlendStep {
  const BlendTensor* tensors;
  size_t tensor_count;
  const BlendGroupStep* groups;
  size_t group_count;
  const float* loss_scale;  // gradients are this many times too large; null: once
  const float* found_inf;   // not zero: nothing is changed; null: zero
  bool finish;              // gates learn and decide at the end; else only the sums are left
};

}  // namespace unstuck
