// Iterations of adaptive attention search, all on the device; see math/attention.hpp.
#pragma once
#include "attention_terms.hpp"

namespace unstuck::cuda {

// The arguments are those of cpu/attention.hpp. Waits for the device once, at the end; returns a
// cudaError_t. The workspace is memory of the device for as many float64 numbers as the first says.
int64_t attention_workspace(const ObjectiveView& objective, int64_t dim, int64_t count,
                            bool antithetic);
template <class R>
int attention_steps(const ObjectiveView& objective, const RegionView<R>& region, DrawView draw,
                    int64_t count, int64_t steps, double share, AttentionState<R>& state, R* losses,
                    R* best_x, AttentionReport& report, double* workspace, void* stream);

}  // namespace unstuck::cuda
