#pragma once
#include <vector>

#include "core/parallel.hpp"
#include "learned_step.hpp"

namespace unstuck::cpu {

// What steps of the same tensors share: their pieces, and room for coefficients and sums.
struct LearnedWork {
  struct Piece {
    uint32_t row;  // student * tensors + tensor
    int64_t begin, length;
  };
  std::vector<Piece> pieces;
  std::vector<learned::Coefs<double>> coefs;  // one a row
  std::vector<learned::Sums<double>> sums;    // one a piece
  std::vector<size_t> first;                  // piece of a row, and one past the last
  explicit LearnedWork(const std::vector<LearnedTensor>& tensors);
  int64_t size() const { return 0; }  // of memory to be lent
  void set(double*) {}
  int launches() const { return 2; }
};

void learned_step(const LearnedStep& step, LearnedWork& work, int threads);

}  // namespace unstuck::cpu
