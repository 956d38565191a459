// What bind_attention.hpp calls on CUDA.
#pragma once
#include "cuda/attention.hpp"
#include "cuda/candidate_backend.hpp"

namespace unstuck::cuda {

struct AttentionBackend {
  using Candidates = CandidateBackend;
  struct Scratch {};  // all of it is lent

  static int64_t workspace_size(const ObjectiveView& objective, int64_t dim, int64_t count,
                                bool antithetic) {
    return attention_workspace(objective, dim, count, antithetic);
  }

  template <class R>
  static void steps(const ObjectiveView& objective, const RegionView<R>& region,
                    const DrawView& draw, int64_t count, int64_t wanted, double share,
                    AttentionState<R>& state, R* losses, R* best_x, AttentionReport& report,
                    const Workspace& lent, const Scratch&, void* stream) {
    double* memory = lent.room(attention_workspace(objective, region.dim, count, draw.antithetic));
    check(attention_steps(objective, region, draw, count, wanted, share, state, losses, best_x,
                          report, memory, stream));
  }
};

}  // namespace unstuck::cuda
