#pragma once
#include "candidate_terms.hpp"
#include "objective_terms.hpp"

namespace unstuck::cpu {

// The losses of candidates of a regression, in a region without bounds. What is kept at a time is a
// panel of noise of a fixed size, or of sixteen candidates where that is more.
template <class R>
void linear_candidates(const Regression& objective, const RegionView<R>& region,
                       const DrawView& draw, int64_t count, R* losses, int threads);

}  // namespace unstuck::cpu
