#pragma once
#include "blend_step.hpp"
#include "core/parallel.hpp"

namespace unstuck::cpu {

// `chunks` cuts the tensors; `partials` has room for chunks x kBlendSums doubles.
void blend_step(const BlendStep& step, const std::vector<Chunk>& chunks,
                std::vector<double>& partials, int threads);
// Only the sums kGG and kHyper, of the gradients of another batch at the parameters as they are.
void blend_hypergradient(const BlendStep& step, const std::vector<Chunk>& chunks,
                         std::vector<double>& partials, int threads);
const char* instruction_set();

}  // namespace unstuck::cpu
