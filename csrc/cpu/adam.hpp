#pragma once
#include "adam_step.hpp"
#include "core/parallel.hpp"

namespace unstuck::cpu {

// `chunks` cuts the tensors; `partials` has room for a double for each.
void adam_step(const AdamStep& step, const std::vector<Chunk>& chunks,
               std::vector<double>& partials, int threads);

// One step of n numbers that lie side by side. `fresh`: their moments are 0, whatever is there.
void adam_descent(float* w, const float* g, float* m, float* v, int64_t n,
                  const AdamCoefs<double>& coefs, bool fresh);
void adam_descent(double* w, const double* g, double* m, double* v, int64_t n,
                  const AdamCoefs<double>& coefs, bool fresh);

}  // namespace unstuck::cpu
