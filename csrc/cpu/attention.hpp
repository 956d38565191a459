// Iterations of adaptive attention search, each without leaving native code.
#pragma once
#include "cpu/candidates.hpp"

namespace unstuck::cpu {

template <class R>
struct AttentionState {
  R *mean, *path, *scale;  // [dim]
  double sigma, beta;
};

struct AttentionReport {
  int64_t done = 0;    // iterations; fewer than wanted when one of them had nothing to go by
  int64_t finite = 0;  // losses of the last one
  double ess = 0;      // of the last one
  double best;         // loss
  bool improved = false;
};

struct AttentionScratch {
  std::vector<double> weights, partials;
  std::vector<char> moments;
};

// Candidates, losses, weights and the update, `steps` times. `losses` [count] are those of the last
// iteration; `best_x` is written where a loss is below `report.best`.
template <class R>
void attention_steps(const LandscapeView& objective, const RegionView<R>& region, DrawView draw,
                     int64_t count, int64_t steps, double share, AttentionState<R>& state,
                     R* losses, R* best_x, AttentionReport& report, CandidateScratch& candidates,
                     AttentionScratch& scratch, int threads);

}  // namespace unstuck::cpu
