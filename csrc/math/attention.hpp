// The rule of adaptive attention search (unstuck/ops/reference_attention.py gives it in full, with
// its sources): what it makes of the effective sample size, and its update of one coordinate.
//
//   beta  <- beta sqrt(log e* / log e)                     temperature
//   p     <- (1 - c) p + sqrt(c (2 - c) mu) d / (sigma s)  path
//   s^2   <- (1 - h) s^2 + h q / sigma^2                   variances
//   sigma <- sigma exp(c / b (|p| / chi - 1))              step size
//   m     <- m + 1.2 d                                     mean
#pragma once
#include <cmath>

#include "core/macros.hpp"

namespace unstuck {

// Where the share e of the effective sample size lies outside, in parts of the wanted one, the
// weights are taken again.
constexpr double kShareLow = 0.5, kShareHigh = 1.4;
constexpr int kTemperRetries = 12;
constexpr double kStride = 1.2;
constexpr double kScaleFloor = 1e-6, kSigmaFloor = 1e-30, kSigmaMax = 1e15, kBetaMax = 1e30;

inline double clamped(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}

// The temperature that gives Gaussian losses of this spread the wanted share.
inline double first_beta(double spread, double share) {
  return spread > 0 ? std::sqrt(-std::log(share)) / spread : 0;
}
// The one that would give the wanted share, from the share e that beta gave.
inline double next_beta(double beta, double e, double share) {
  const double log_e = std::fmin(std::log(std::fmin(e, 1.0)), -1e-12);
  const double next = beta * clamped(std::sqrt(std::log(share) / log_e), 0.25, 4.0);
  return std::fmin(kBetaMax, next);
}

struct AttentionRates {
  double path, damping, usual, variance;  // c, b, chi, h

  AttentionRates(double dim, double ess) {
    path = 0.35 * (ess + 2) / (dim + ess + 5);
    damping = 1 + path + 2 * std::fmax(0.0, std::sqrt(std::fmax(0.0, ess - 1) / (dim + 1)) - 1);
    usual = std::sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim * dim));
    const double h = (dim + 2) / 3 * 2 * (ess - 2 + 1 / ess) / ((dim + 2) * (dim + 2) + ess);
    variance = clamped(h, 0.0, 0.5);
  }
  double growth(double path_norm) const {
    return std::exp(std::fmin(1.0, path / damping * (path_norm / usual - 1)));
  }
};

// One coordinate: the new path, and the new variance before it is made one on average.
template <class R>
UNSTUCK_HD R next_path(R p, R shift, R scale, R keep, R gain) {
  return keep * p + gain * (shift / scale);
}
template <class R>
UNSTUCK_HD R next_variance(R scale, R square, R keep, R gain) {
  return keep * (scale * scale) + gain * square;
}

template <class R>
UNSTUCK_HD R next_mean(R mean, R shift) {
  return mean + R(kStride) * shift;
}

}  // namespace unstuck
