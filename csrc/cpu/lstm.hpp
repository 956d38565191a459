#pragma once
#include <vector>

#include "core/parallel.hpp"
#include "lstm_step.hpp"

namespace unstuck::cpu {

// What steps of the same tensors share.
struct LstmWork {
  std::vector<Chunk> chunks;
  explicit LstmWork(const std::vector<LstmTensor>& tensors);
  int64_t size() const { return 0; }  // of memory to be lent
  void set(double*) {}
  int launches() const { return 1; }
};

void lstm_step(const LstmStep& step, LstmWork& work, int threads);

}  // namespace unstuck::cpu
