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
#include <cstdint>
#include <limits>

#include "math/elementary.hpp"

namespace unstuck {

// Where the share e of the effective sample size lies outside, in parts of the wanted one, the
// weights are taken again.
constexpr double kShareLow = 0.5, kShareHigh = 1.4;
constexpr int kTemperRetries = 12;
constexpr double kStride = 1.2;
constexpr double kScaleFloor = 1e-6, kSigmaFloor = 1e-30, kSigmaMax = 1e15, kBetaMax = 1e30;

UNSTUCK_HD double clamped(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}

// The temperature that gives Gaussian losses of this spread the wanted share.
UNSTUCK_HD double first_beta(double spread, double share) {
  return spread > 0 ? std::sqrt(-std::log(share)) / spread : 0;
}
// The one that would give the wanted share, from the share e that beta gave.
UNSTUCK_HD double next_beta(double beta, double e, double share) {
  const double log_e = std::fmin(std::log(std::fmin(e, 1.0)), -1e-12);
  const double next = beta * clamped(std::sqrt(std::log(share) / log_e), 0.25, 4.0);
  return std::fmin(kBetaMax, next);
}

// What the losses of one iteration are like, those that are NaN or infinite left out.
struct Losses {
  int64_t finite = 0, best = 0;  // how many, and the first of the lowest
  double low = std::numeric_limits<double>::infinity(), high = -low;

  template <class R>
  UNSTUCK_HD void add(R loss, int64_t i) {
    if (!is_finite(loss)) return;
    ++finite;
    if (loss < low) {
      low = loss;
      best = i;
    }
    if (loss > high) high = loss;
  }
  UNSTUCK_HD void merge(const Losses& other) {
    finite += other.finite;
    if (other.low < low || (other.low == low && other.best < best)) {
      low = other.low;
      best = other.best;
    }
    if (other.high > high) high = other.high;
  }
};

// Whether weights of the share e are near enough to the wanted one.
UNSTUCK_HD bool fits(double e, double share) {
  return kShareLow * share <= e && e <= kShareHigh * share;
}

// The weight of a loss over that of the lowest one; 0 where it is not finite.
template <class R>
UNSTUCK_HD double relative_weight(R loss, double low, double beta) {
  const double gap = double(loss) - low;
  return is_finite(gap) ? exp_negative(-beta * gap) : 0.0;
}
// Of the weights of all candidates.
struct WeightSums {
  double first, second;  // and of their squares
  UNSTUCK_HD double ess() const { return first * first / second; }
};
// The temperature whose weights have the wanted share among `count` finite losses, starting from
// beta > 0; weigh(beta) returns the sums of the weights that it gives.
struct Tempered {
  double beta, next;  // for these weights, and for the next iteration
  WeightSums sums;
};
template <class Weigh>
UNSTUCK_HD Tempered tempered(double beta, double share, double count, const Weigh& weigh) {
  Tempered t{beta, beta, weigh(beta)};
  for (int retry = 0; retry < kTemperRetries; ++retry) {
    const double e = t.sums.ess() / count;
    if (fits(e, share)) break;
    t.beta = next_beta(t.beta, e, share);
    t.sums = weigh(t.beta);
  }
  t.next = next_beta(t.beta, t.sums.ess() / count, share);
  return t;
}

struct AttentionRates {
  double path, damping, usual, variance;  // c, b, chi, h

  UNSTUCK_HD AttentionRates(double dim, double ess) {
    path = 0.35 * (ess + 2) / (dim + ess + 5);
    damping = 1 + path + 2 * std::fmax(0.0, std::sqrt(std::fmax(0.0, ess - 1) / (dim + 1)) - 1);
    usual = std::sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim * dim));
    const double h = (dim + 2) / 3 * 2 * (ess - 2 + 1 / ess) / ((dim + 2) * (dim + 2) + ess);
    variance = clamped(h, 0.0, 0.5);
  }
  UNSTUCK_HD double growth(double path_norm) const {
    return std::exp(std::fmin(1.0, path / damping * (path_norm / usual - 1)));
  }
  // What the shift counts in the path, and the squares in the variances; finite in R also where the
  // square of sigma is not in its range (the squares are 0 then, and the variances stay).
  UNSTUCK_HD double path_gain(double ess, double sigma) const {
    return std::sqrt(path * (2 - path) * ess) / sigma;
  }
  template <class R>
  UNSTUCK_HD double variance_gain(double sigma) const {
    return std::fmin(variance / sigma / sigma, sizeof(R) == 4 ? 3e38 : 1e308);
  }
  // `level` is the mean of the new variances.
  UNSTUCK_HD double next_sigma(double sigma, double path_norm, double level) const {
    return clamped(sigma * growth(path_norm) * std::sqrt(level), kSigmaFloor, kSigmaMax);
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
UNSTUCK_HD R next_scale(R variance, double level) {
  const R s = square_root(variance / R(level));
  return s > R(kScaleFloor) ? s : R(kScaleFloor);
}
template <class R>
UNSTUCK_HD R next_mean(R mean, R shift) {
  return mean + R(kStride) * shift;
}

}  // namespace unstuck
