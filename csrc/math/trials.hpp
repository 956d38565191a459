// Losses at w - rate d for many rates, from what is computed once, and the step they decide on.
//
//   r = X w - y, q = X d:  norm(r - rate q)^2 = r.r - 2 rate r.q + rate^2 q.q
//   trapped                L = norm(r - rate q)^2 / n + lam sin(kappa norm(w - rate d)^2)
//   p = softmax(-beta L),  w <- w - (sum p_k rate_k) d
#pragma once
#include <cstdint>

#include "math/elementary.hpp"

namespace unstuck {

// The squared length of x - rate d for any rate, from three inner products.
struct Parabola {
  double xx, xd, dd;
  UNSTUCK_HD void add(double x, double d) {
    xx += x * x;
    xd += x * d;
    dd += d * d;
  }
  UNSTUCK_HD void add(const Parabola& other) {
    xx += other.xx;
    xd += other.xd;
    dd += other.dd;
  }
  UNSTUCK_HD double at(double rate) const {
    const double square = xx - 2.0 * rate * xd + rate * rate * dd;
    return square < 0 ? 0 : square;  // NaN stays
  }
};

// `residual` is X w - y and X d, `point` is w and d. Without traps lam is 0.
UNSTUCK_HD double trapped_loss(double residual_square, double point_square, double n, double lam,
                               double kappa) {
  const double fit = residual_square / n;
  return lam != 0 ? fit + lam * sin(kappa * point_square) : fit;
}

// The gradient of the traps is this times w.
UNSTUCK_HD double trapped_pull(double point_square, double lam, double kappa) {
  return lam != 0 ? 2 * lam * kappa * cos(kappa * point_square) : 0;
}

// Softmax weights of -beta losses, and the rate they make. What is not finite weighs nothing; where
// nothing is, all weights and the rate are 0.
template <class R>
UNSTUCK_HD double choose_rate(const R* losses, const R* rates, int64_t count, double beta, R* p) {
  const auto good = [&](int64_t k) {
    return is_finite(double(losses[k])) && is_finite(double(rates[k]));
  };
  double low = 0;
  bool any = false;
  for (int64_t k = 0; k < count; ++k) {
    if (!good(k)) continue;
    if (!any || double(losses[k]) < low) low = double(losses[k]);
    any = true;
  }
  const auto weight = [&](int64_t k) { return exp(scaled_difference(-beta, losses[k], low)); };
  double total = 0, rate = 0;
  for (int64_t k = 0; k < count; ++k) {
    if (!good(k)) continue;
    total += weight(k);
    rate += weight(k) * double(rates[k]);
  }
  for (int64_t k = 0; k < count; ++k) p[k] = good(k) ? R(weight(k) / total) : R(0);
  return any ? rate / total : 0;
}

}  // namespace unstuck
