// What a step of the MLP rule works on, as plain memory: filled by the bindings, read by the CPU
// and CUDA kernels. One step may move several students at once, each by weights of its own.
#pragma once
#include <cstddef>

#include "core/dtype.hpp"
#include "core/scalar.hpp"
#include "math/learned.hpp"

namespace unstuck {

struct LearnedTensor {
  void *w, *g, *m, *slow, *v;
  void* stats;               // [students, kStats], of the tensor's dtype
  float* step;               // [students]
  int64_t numel;             // of one student; its moments lie behind those of the one before
  int64_t students, stride;  // from one to the next in w and g
  DType dtype;
  int32_t group;
  double traits[learned::kTraits];
};

struct LearnedGroup {
  double lr, weight_decay, num_steps;  // num_steps 0: unknown
  bool maximize;
  Scalar lr_on_device;
  UNSTUCK_HD double rate() const { return lr_on_device.data ? lr_on_device.load() : lr; }
};

// What the steps of all rules are told.
template <class Tensor>
struct RuleStep {
  const Tensor* tensors;
  size_t tensor_count;
  const LearnedGroup* groups;
  size_t group_count;
  const float* loss_scale;  // gradients are this many times too large; null: once
  const float* found_inf;   // not zero: nothing is changed; null: zero
};

struct LearnedStep : RuleStep<LearnedTensor> {
  const float* thetas;  // [students, net.size()]
  learned::Net net;
};

}  // namespace unstuck
