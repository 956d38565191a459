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

struct LstmStep : RuleStep<LstmTensor> {
  const float* theta;
  lstm::Net net;
};

}  // namespace unstuck
