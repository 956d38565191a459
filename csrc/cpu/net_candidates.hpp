#pragma once
#include "candidate_terms.hpp"
#include "objective_terms.hpp"

namespace unstuck::cpu {

// The losses of candidates of a two-layer net, whose weights are drawn and never leave the cache.
template <class R>
void net_candidates(const NetData& net, const RegionView<R>& region, const DrawView& draw,
                    int64_t count, R* losses, int threads);

}  // namespace unstuck::cpu
