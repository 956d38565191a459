// The inner loops of candidates: over a piece of a row (one candidate, lanes along coordinates) or
// over a column (sixteen candidates beside each other).
#pragma once
#include "cpu/candidates.hpp"
#include "math/softmax.hpp"

namespace unstuck::cpu {

// x = bound(mean + sigma scale eps) for coordinates [begin, begin + n) of a row.
template <class R>
void place_row(const RegionView<R>& region, int64_t begin, int64_t n, R sigma, const float* eps,
               R* x);
// The same for sixteen candidates: `eps` and `x` [dim, 16].
template <class R>
void place_column(const RegionView<R>& region, const R* sigmas, const float* eps, R* x);

// shift += b_k eps_k, square += q_k eps_k^2 for `rows` rows of noise, one after the other
constexpr int kRowsTogether = 4;
template <class R>
void add_noise(int64_t n, int rows, const float* const* eps, const R* b, const R* q, R* shift,
               R* square);
// shift += a (x - mean), square += a (x - mean)^2
template <class R>
void add_points(int64_t n, const R* x, const R* mean, R a, R* shift, R* square);
// The same for columns, [dim, 16] each but mean [dim].
template <class R>
void add_noise_column(int64_t dim, const float* eps, const R* b, const R* q, R* shift, R* square);
template <class R>
void add_points_column(int64_t dim, const R* x, const R* mean, const R* a, R* shift, R* square);

// out[c] += the sum of the sixteen of x [dim, 16].
template <class R>
void fold_column(int64_t dim, const R* x, double* out);

// x *= factor, where 0 forgets what was infinite
template <class R>
void rescale(int64_t n, R factor, R* x);
// to += factor x
template <class R>
void add_scaled(int64_t n, R factor, const R* x, R* to);
// shift *= by, square *= by^2
template <class R>
void rescale_each(int64_t n, const R* by, R* shift, R* square);

// Raises `found` to the best of these losses and adds them to its sums: their weights, 0 where L is
// not finite, are relative to it. Returns what earlier weights are to be multiplied by.
template <class R>
double softmax_weights(int64_t n, const R* losses, double* weights, OnlineSoftmax& found);

}  // namespace unstuck::cpu
