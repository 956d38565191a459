#pragma once
#include <vector>

#include "candidate_terms.hpp"
#include "objective_terms.hpp"

namespace unstuck::cpu {

void regression_trials(const Regression& objective, const Trials& trials, int threads);
void net_trials(const NetTrials& net, const Trials& trials, int64_t dim, int threads);
void landscape_trials(const LandscapeView& objective, const Trials& trials, int64_t dim,
                      DType dtype, int threads);

// Writes the losses and, where it is wanted, takes the step.
void finish_trials(const Trials& trials, DType dtype, const std::vector<double>& losses,
                   int64_t dim, int threads);

}  // namespace unstuck::cpu
