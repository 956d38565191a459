// Iterations of adaptive attention search, each without leaving native code.
#pragma once
#include "attention_terms.hpp"
#include "cpu/candidates.hpp"

namespace unstuck::cpu {

struct AttentionScratch {
  std::vector<double> weights, partials;
  std::vector<char> moments;
};

// Candidates, losses, weights and the update, `steps` times. `losses` [count] are those of the last
// iteration; `best_x` is written where a loss is below `report.best`. The region of a regression
// has no bounds.
template <class R>
void attention_steps(const ObjectiveView& objective, const RegionView<R>& region, DrawView draw,
                     int64_t count, int64_t steps, double share, AttentionState<R>& state,
                     R* losses, R* best_x, AttentionReport& report, CandidateScratch& candidates,
                     AttentionScratch& scratch, int threads);

// What bind_attention.hpp calls.
struct AttentionBackend {
  using Candidates = CandidateBackend;
  using Scratch = AttentionScratch;

  static int64_t workspace_size(const ObjectiveView&, int64_t, int64_t, bool) { return 0; }

  template <class R>
  static void steps(const ObjectiveView& objective, const RegionView<R>& region,
                    const DrawView& draw, int64_t count, int64_t wanted, double share,
                    AttentionState<R>& state, R* losses, R* best_x, AttentionReport& report,
                    CandidateScratch& candidates, Scratch& scratch, int threads) {
    attention_steps(objective, region, draw, count, wanted, share, state, losses, best_x, report,
                    candidates, scratch, threads);
  }
};

}  // namespace unstuck::cpu
