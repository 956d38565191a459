#pragma once
#include "cuda/launches.hpp"
#include "lstm_step.hpp"

namespace unstuck::cuda {

// Decided when a plan is made.
struct LstmLaunches {
  explicit LstmLaunches(const std::vector<LstmTensor>& tensors);
  std::vector<TensorLaunch> list;
  int64_t workspace_size() const;  // float64 numbers, zeroed once by whoever provides them
  double* workspace = nullptr;
};

// Returns a cudaError_t and never waits for the device.
int lstm_step(const LstmStep& step, const LstmLaunches& launches, void* stream);

}  // namespace unstuck::cuda
