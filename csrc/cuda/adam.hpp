#pragma once
#include <vector>

#include "adam_step.hpp"

namespace unstuck::cuda {

// Which tensors go together in one launch, decided when a plan is made: those of one group and
// dtype, as many of them as the kernel's arguments hold.
struct AdamLaunch {
  std::vector<uint32_t> rows;
  int32_t group;
  uint32_t chunks;        // blocks
  int64_t first_partial;  // where its blocks leave their sums
};

struct AdamLaunches {
  explicit AdamLaunches(const std::vector<AdamTensor>& tensors);
  std::vector<AdamLaunch> list;
  int64_t workspace_size() const;  // float64 numbers, zeroed once by whoever provides them
  int64_t partials = 0;
  double* workspace = nullptr;
};

// Returns a cudaError_t and never waits for the device.
int adam_step(const AdamStep& step, const AdamLaunches& launches, void* stream);

}  // namespace unstuck::cuda
