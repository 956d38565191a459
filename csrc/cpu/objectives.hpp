#pragma once
#include "objective_terms.hpp"

namespace unstuck::cpu {

// The loss at w [D] and its gradient [D], from one pass over the data.
void regression_gradient(const Regression& objective, const void* w, void* loss, void* gradient,
                         int threads);

}  // namespace unstuck::cpu
