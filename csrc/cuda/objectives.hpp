// The objectives with data: gradients, and losses of candidates.
#pragma once
#include "candidate_terms.hpp"
#include "objective_terms.hpp"

namespace unstuck::cuda {

// All functions but the sizes return a cudaError_t and never wait for the device. A workspace is
// memory on the device, as many float64 numbers as the function before says; what it holds does not
// matter.

int64_t regression_gradient_workspace(int64_t n, int64_t dim);
int regression_gradient(const Regression& objective, const void* w, void* loss, void* gradient,
                        double* workspace, void* stream);

// The region has no bounds.
int64_t linear_candidates_workspace(int64_t n, int64_t count, bool antithetic);
template <class R>
int linear_candidates(const Regression& objective, const RegionView<R>& region,
                      const DrawView& draw, int64_t count, R* losses, double* workspace,
                      void* stream);

int64_t net_candidates_workspace(int64_t n, int64_t count);
template <class R>
int net_candidates(const NetData& net, const RegionView<R>& region, const DrawView& draw,
                   int64_t count, R* losses, double* workspace, void* stream);

}  // namespace unstuck::cuda
