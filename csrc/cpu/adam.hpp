#pragma once
#include "adam_step.hpp"
#include "core/parallel.hpp"

namespace unstuck::cpu {

// `chunks` cuts the tensors; `partials` has room for a double for each.
void adam_step(const AdamStep& step, const std::vector<Chunk>& chunks,
               std::vector<double>& partials, int threads);

}  // namespace unstuck::cpu
