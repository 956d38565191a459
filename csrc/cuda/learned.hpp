#pragma once
#include "cuda/launches.hpp"
#include "learned_step.hpp"

namespace unstuck::cuda {

// Decided when a plan is made.
struct LearnedLaunches {
  explicit LearnedLaunches(const std::vector<LearnedTensor>& tensors);
  std::vector<TensorLaunch> list;
  int64_t blocks = 0, rows = 0;    // students times blocks and tensors
  int64_t workspace_size() const;  // float64 numbers, zeroed once by whoever provides them
  double* workspace = nullptr;
};

// Returns a cudaError_t and never waits for the device.
int learned_step(const LearnedStep& step, const LearnedLaunches& launches, void* stream);

}  // namespace unstuck::cuda
