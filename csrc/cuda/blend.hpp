#pragma once
#include <vector>

#include "blend_step.hpp"

namespace unstuck::cuda {

// Which tensors go together in one launch, decided when a plan is made. Tensors of one group,
// dtype and kind of state share launches, as many of them as the kernel's arguments hold.
struct Launch {
  std::vector<uint32_t> rows;
  int32_t group;
  bool last_of_group;     // this launch ends the group's step
  bool first_of_group;    // this one starts its sums
  uint32_t chunks;        // blocks
  int64_t first_partial;  // where its blocks leave their sums
};

struct Launches {
  explicit Launches(const std::vector<BlendTensor>& tensors);
  std::vector<Launch> list;
  int64_t workspace_size() const;  // float64 numbers, zeroed once by whoever provides them
  int64_t partials = 0;
  double* workspace = nullptr;
};

// Both return a cudaError_t and never wait for the device.
int blend_step(const BlendStep& step, const Launches& launches, void* stream);
int blend_hypergradient(const BlendStep& step, const Launches& launches, void* stream);

int device_count(int* count);  // returns a cudaError_t
const char* error_text(int error);

}  // namespace unstuck::cuda
