// What a step of the LSTM rule works on, as plain memory: filled by the bindings, read by the
// kernels.
#pragma once
#include <cstddef>

#include "core/dtype.hpp"
#include "learned_step.hpp"
#include "math/lstm.hpp"

namespace unstuck {

struct LstmTensor {
  void *w, *g, *m, *v;
  void *hidden, *cell;  // [hidden, numel]
  float* step;
  int64_t numel;
  DType dtype;  // float32
  int32_t group;
};

struct LstmStep {
  const LstmTensor* tensors;
  size_t tensor_count;
  const LearnedGroup* groups;
  size_t group_count;
  const float* theta;
  lstm::Net net;
  const float* loss_scale;  // gradients are this many times too large; null: once
  const float* found_inf;   // not zero: nothing is changed; null: zero
};

}  // namespace unstuck
