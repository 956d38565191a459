// Losses and softmax-weighted moments in one pass over the noise.
#pragma once
#include "cpu/candidates.hpp"

namespace unstuck::cpu {

// As candidate_softmax(), for which one_pass(region.dim) holds.
template <class R>
double candidate_pass(const LandscapeView& objective, const RegionView<R>& region,
                      const DrawView& draw, int64_t count, double beta, R* losses, R* shift,
                      R* square, CandidateScratch& scratch, int threads);

}  // namespace unstuck::cpu
