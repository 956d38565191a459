// Learning-rate trials, see math/trials.hpp.
#pragma once
#include "candidate_terms.hpp"
#include "objective_terms.hpp"

namespace unstuck::cuda {

// All functions but the sizes return a cudaError_t and never wait for the device. Sizes are numbers
// of float64 that trials.workspace has room for.
int64_t regression_trials_workspace(int64_t n, int64_t dim, int64_t count);
int regression_trials(const Regression& objective, const Trials& trials, void* stream);

int64_t net_trials_workspace(int64_t n, int64_t count);
int net_trials(const NetTrials& net, const Trials& trials, int64_t dim, void* stream);

int64_t landscape_trials_workspace(int64_t dim, int64_t count);
int landscape_trials(const LandscapeView& objective, const Trials& trials, int64_t dim, DType dtype,
                     void* stream);

}  // namespace unstuck::cuda
