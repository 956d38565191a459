// Landscapes at points that are stored, or lie on a line. Functions but the sizes return a
// cudaError_t and never wait for the device; a workspace is as in cuda/candidates.hpp.
#pragma once
#include "candidate_terms.hpp"

namespace unstuck::cuda {

// The values of a landscape at points [count, dim].
int64_t landscape_values_workspace(int64_t dim, int64_t count);
template <class R>
int landscape_values(const LandscapeView& objective, const R* points, int64_t count, int64_t dim,
                     R* values, double* workspace, void* stream);

// The same at w - rates[k] d, k < count.
template <class R>
int landscape_line(const LandscapeView& objective, const R* w, const R* d, const R* rates,
                   int64_t count, int64_t dim, R* values, double* workspace, void* stream);

// The values and the gradients [count, dim].
int64_t landscape_gradients_workspace(int64_t dim, int64_t count);
template <class R>
int landscape_gradients(const LandscapeView& objective, const R* points, int64_t count, int64_t dim,
                        R* values, R* gradients, double* workspace, void* stream);

}  // namespace unstuck::cuda
