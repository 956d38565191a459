// Candidates around a point, evaluated and weighed without being stored.
#pragma once
#include <cstddef>

#include "cuda/landscapes.hpp"

namespace unstuck::cuda {

// All functions but the sizes return a cudaError_t, and but for the last never wait for the device.
// A workspace is
// memory on the device, as many float64 numbers as the function before says; what it holds does not
// matter.

// They may be left undone where *stopped, on the device, is set; it may be null.
int64_t candidate_losses_workspace(int64_t dim, int64_t count, bool antithetic);
template <class R>
int candidate_losses(const LandscapeView& objective, const RegionView<R>& region,
                     const DrawView& draw, int64_t count, R* losses, double* workspace,
                     const int* stopped, void* stream);

// weights = softmax(-beta L), 0 where L is not finite; *ess = 1 / sum of squares, 0 where none is.
template <class R>
int softmax_weights(int64_t count, const R* losses, double beta, R* weights, double* ess,
                    void* stream);

// shift = sum a_i (x_i - mean), square = sum a_i (x_i - mean)^2; weights of 0 are left out.
int64_t candidate_moments_workspace(int64_t dim, int64_t count, bool antithetic);
template <class R>
int candidate_moments(const RegionView<R>& region, const DrawView& draw, const R* weights,
                      int64_t count, R* shift, R* square, double* workspace, void* stream);

// Candidates first, ..., first + count - 1 [count, dim].
template <class R>
int candidate_sample(const RegionView<R>& region, const DrawView& draw, int64_t first,
                     int64_t count, R* out, void* stream);

// Copies to the host, once the stream has got so far.
int read_back(const void* from, void* to, size_t bytes, void* stream);

}  // namespace unstuck::cuda
