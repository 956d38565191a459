// What an Adam step works on, as plain memory: filled by the bindings, read by the CPU and CUDA
// kernels.
#pragma once
#include <cstddef>

#include "core/dtype.hpp"
#include "core/scalar.hpp"
#include "math/adam.hpp"
#include "math/stagnation.hpp"

namespace unstuck {

struct AdamTensor {
  void *w, *g, *m, *v;
  float* step;
  int64_t numel;
  DType dtype;
  int32_t group;
};

struct AdamGroupStep {
  AdamGroup group;
  Scalar lr;

  // The group as it stands now, with a device scalar read in.
  UNSTUCK_HD AdamGroup resolved() const {
    AdamGroup g = group;
    if (lr.data) g.lr = lr.load();
    return g;
  }
};

struct AdamStep {
  const AdamTensor* tensors;
  size_t tensor_count;
  const AdamGroupStep* groups;
  size_t group_count;
  const float* loss_scale;  // gradients are this many times too large; null: once
  const float* found_inf;   // not zero: nothing is changed; null: zero
  double* stats;            // null: nothing is tracked
  StagnationConfig config;
  bool finish;  // the tests are made; else only the sum of squares is added to
};

}  // namespace unstuck
