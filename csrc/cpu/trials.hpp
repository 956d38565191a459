#pragma once
#include "objective_terms.hpp"

namespace unstuck::cpu {

void regression_trials(const Regression& objective, const Trials& trials, int threads);
void net_trials(const NetTrials& net, const Trials& trials, int64_t dim, int threads);

}  // namespace unstuck::cpu
