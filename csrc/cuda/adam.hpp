#pragma once
#include "adam_step.hpp"
#include "cuda/launches.hpp"

namespace unstuck::cuda {

// Decided when a plan is made.
struct AdamLaunches {
  explicit AdamLaunches(const std::vector<AdamTensor>& tensors);
  std::vector<TensorLaunch> list;
  int64_t workspace_size() const;  // float64 numbers, zeroed once by whoever provides them
  int64_t partials = 0;
  double* workspace = nullptr;
};

// Returns a cudaError_t and never waits for the device.
int adam_step(const AdamStep& step, const AdamLaunches& launches, void* stream);

}  // namespace unstuck::cuda
