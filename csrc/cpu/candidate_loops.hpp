// The inner loops of candidates: over a piece of a row (one candidate, lanes along coordinates) or
// over a column (sixteen candidates beside each other).
#pragma once
#include "cpu/candidates.hpp"

namespace unstuck::cpu {

// x = bound(mean + sigma scale eps) for coordinates [begin, begin + n) of a row.
template <class R>
void place_row(const RegionView<R>& region, int64_t begin, int64_t n, R sigma, const float* eps,
               R* x);
// The same for sixteen candidates: `eps` and `x` [dim, 16].
template <class R>
void place_column(const RegionView<R>& region, const R* sigmas, const float* eps, R* x);

// shift += b eps, square += q eps^2
template <class R>
void add_noise(int64_t n, const float* eps, R b, R q, R* shift, R* square);
// shift += a (x - mean), square += a (x - mean)^2
template <class R>
void add_points(int64_t n, const R* x, const R* mean, R a, R* shift, R* square);
// The same for columns, [dim, 16] each but mean [dim].
template <class R>
void add_noise_column(int64_t dim, const float* eps, const R* b, const R* q, R* shift, R* square);
template <class R>
void add_points_column(int64_t dim, const R* x, const R* mean, const R* a, R* shift, R* square);

// weights = exp(-beta L - the highest), 0 where L is not finite; returns 1 / sum of the normalised
// squares, and their sum.
template <class R>
double softmax_weights(int64_t n, const R* losses, double beta, double* weights, double& sum);

}  // namespace unstuck::cpu
