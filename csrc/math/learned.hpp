// The per-parameter MLP rule, one coordinate at a time, and the network that is asked once a tensor
// and step; unstuck.learned.MLP says the same in torch. With g the gradient of the minimised loss,
// t the step count and hats on moments free of bias:
//
//   moments     m, s <- m + (1 - beta) (g - m)          at 0.9 and 0.99
//               v <- beta v + (1 - beta) g g            at 0.999
//   directions  D = sqrt(v^) + eps,  a = m^/D,  x = cut(g/D),  b = s^/D,  q = cut(w / rms(w)),
//               d = m^ / rms(sqrt(v^)), the latter of the last step, cut at 16
//   inputs      |a|, |x|, |b|, a x, a b, |q|, x q, |d|, each cut
//   mixture     c = W2 relu(W1 inputs + bias) + mix_bias,  u = scale (a + sum c_k direction_k)
//   parameter   w <- w - rate lr fade u - rate lr weight_decay w,  fade = (rest of the run)^kappa
//
// V is a number or a vector of them, S the number.
#pragma once
#if !defined(__CUDACC__)
#include <cmath>
#endif
#include <cstdint>

#include "math/elementary.hpp"

namespace unstuck::learned {

constexpr int kDirections = 5, kInputs = 8, kStats = 7, kTraits = 5, kTimes = 7;
constexpr int kControlInputs = kTimes + 3 + kTraits + kStats - 1;  // all but the last
constexpr int kMostHidden = 64, kMostControl = 256;
constexpr double kRate = 1e-3, kEps = 1e-8, kLeastRms = 1e-8, kMostLogScale = 5, kMostPower = 2;
constexpr double kBeta = 0.9, kSlowBeta = 0.99, kSqBeta = 0.999;
constexpr double kLongest = 600;  // the highest step count that the tensor network is told
constexpr double kTrend = 0.9, kSlowTrend = 0.98;  // of running averages of statistics

// What a tensor remembers of earlier steps; all but the first and the last, root mean squares of w
// and sqrt(v^), are running averages.
enum Stat { kRms, kCosine, kSlowCosine, kAdamSquare, kGradientSquare, kUpdateSquare, kRootRms };

// Where a rule's weights lie, in the order of its torch parameters.
struct Net {
  int32_t hidden, control;
  UNSTUCK_HD int32_t outputs() const { return hidden + kDirections + 2; }
  UNSTUCK_HD int32_t control_bias() const { return control * kControlInputs; }
  UNSTUCK_HD int32_t out_weight() const { return control_bias() + control; }
  UNSTUCK_HD int32_t out_bias() const { return out_weight() + outputs() * control; }
  UNSTUCK_HD int32_t in_weight() const { return out_bias() + outputs(); }
  UNSTUCK_HD int32_t mix_weight() const { return in_weight() + hidden * kInputs; }
  UNSTUCK_HD int32_t size() const { return mix_weight() + hidden * kDirections; }
};

// One tensor's numbers at one step.
template <class S>
struct Coefs {
  S grad_scale, step, decay, scale, fade;
  S m_free, slow_free, v_free;  // 1 / (1 - beta^t)
  S per_rms;
  S m_even;  // m_free / rms(sqrt(v^)), 0 before there is one
  S mix_bias[kDirections];
  S hidden_bias[kMostHidden];
  int32_t hidden;
};

// Sums over a tensor's coordinates, for its statistics; y is m / D before the step.
template <class V>
struct Sums {
  V xy, xx, yy, aa, uu, ww, vv;  // ww: before the decay; vv: of v itself
};
constexpr int kSums = 7;

// Cut at 4; NaN stays.
template <class V>
UNSTUCK_HD V cut_above(V x) {
  const V four = V{} + 4;
  return x > four ? four : x;
}
template <class V>
UNSTUCK_HD V cut(V x) {
  const V low = V{} - 4;
  x = cut_above(x);
  return x < low ? low : x;
}
template <class V>
UNSTUCK_HD V cut_far(V x) {  // at 16
  const V high = V{} + 16, low = V{} - 16;
  x = x > high ? high : x;
  return x < low ? low : x;
}
template <class V>
UNSTUCK_HD V positive_part(V x) {
  return x < V{} ? V{} : x;
}
template <class V>
UNSTUCK_HD V absolute(V x) {
  return x < V{} ? -x : x;
}

// A coordinate whose moments have made their step.
template <class V>
struct Moved {
  V g, m, slow, v, before, per_d;  // before: m before the step; per_d: 1 / D
};

template <class V, class S>
UNSTUCK_HD Moved<V> move_moments(const V& grad, V& m, V& slow, V& v, const Coefs<S>& c) {
  Moved<V> now;
  const V g = grad * c.grad_scale;
  now.g = g;
  now.before = m;
  now.m = m = m + S(1 - kBeta) * (g - m);
  now.slow = slow = slow + S(1 - kSlowBeta) * (g - slow);
  now.v = v = S(kSqBeta) * v + S(1 - kSqBeta) * g * g;
  now.per_d = S(1) / (square_root(v * c.v_free) + S(kEps));
  return now;
}

// The step of its parameter. `in` is W1 [hidden, kInputs], `mix` is W2 [kDirections, hidden]. A is
// what a V can be added to.
template <class V, class S, class A>
UNSTUCK_HD void move_parameter(V& w, const Moved<V>& now, const Coefs<S>& c, const S* in,
                               const S* mix, Sums<A>& sums) {
  const V a = now.m * c.m_free * now.per_d, x = cut(now.g * now.per_d);
  const V b = now.slow * c.slow_free * now.per_d, q = cut(w * c.per_rms);
  const V d = cut_far(now.m * c.m_even);
  const V in0 = cut_above(absolute(a)), in1 = absolute(x), in2 = cut_above(absolute(b));
  const V in3 = cut(a * x), in4 = cut(a * b), in5 = absolute(q), in6 = cut(x * q);
  const V in7 = cut_above(absolute(d));
  V c0 = V{} + c.mix_bias[0], c1 = V{} + c.mix_bias[1], c2 = V{} + c.mix_bias[2];
  V c3 = V{} + c.mix_bias[3], c4 = V{} + c.mix_bias[4];
  const int32_t n = c.hidden;
  for (int32_t j = 0; j < n; ++j, in += kInputs, ++mix) {  // two chains of sums: half the latency
    const V h =
        positive_part((c.hidden_bias[j] + in[0] * in0 + in[1] * in1 + in[2] * in2 + in[3] * in3) +
                      (in[4] * in4 + in[5] * in5 + in[6] * in6 + in[7] * in7));
    c0 += mix[0] * h;
    c1 += mix[n] * h;
    c2 += mix[2 * n] * h;
    c3 += mix[3 * n] * h;
    c4 += mix[4 * n] * h;
  }
  const V u = c.scale * (a + ((c0 * a + c1 * x + c2 * b) + (c3 * q + c4 * d)));
  const V to = w - c.step * c.fade * u;
  w = to - c.decay * w;
  const V y = now.before * now.per_d;
  sums.xy += x * y;
  sums.xx += x * x;
  sums.yy += y * y;
  sums.aa += a * a;
  sums.uu += u * u;
  sums.ww += to * to;
  sums.vv += now.v;
}

// tanh(log x), from -1 at 0 to 1.
UNSTUCK_HD double bend(double x) { return 1 - 2 / (1 + x * x); }
UNSTUCK_HD double within(double x, double bound) {
  return x > bound ? bound : x < -bound ? -bound : x;
}

// What the tensor network sees: the count of this step (no higher than meta-training counts, since
// nothing has taught it what to make of more), the progress (`num_steps` 0: unknown), the
// tensor's traits and statistics.
UNSTUCK_HD double control_input(int i, double t, double num_steps, const double* traits,
                                const double* stats) {
  constexpr double times[kTimes] = {3, 10, 30, 100, 300, 1000, 3000};
  if (i < kTimes) return bend((t < kLongest ? t : kLongest) / times[i]);
  if ((i -= kTimes) < 3) {
    if (num_steps == 0) return 0;
    const double progress = t < num_steps ? t / num_steps : 1;
    return i == 0 ? 1 : i == 1 ? progress : bend((1 - progress) * 10);
  }
  if ((i -= 3) < kTraits) return traits[i];
  const double s = stats[i -= kTraits];
  if (i == 0) return within(log(s + kLeastRms) / 4, 2.5);                     // rms of w
  if (i < 3) return s;                                                        // cosines
  return i == 3 ? square_root(s) : i == 4 ? s / (1 + s) : log(s + 1e-6) / 8;  // a a, x x, u u
}

// A hidden unit of the tensor network, and one of its outputs.
UNSTUCK_HD double control_unit(const float* theta, Net net, int j, const double* inputs) {
  double sum = theta[net.control_bias() + j];
  for (int i = 0; i < kControlInputs; ++i) sum += double(theta[j * kControlInputs + i]) * inputs[i];
  return tanh(sum);
}
UNSTUCK_HD double control_output(const float* theta, Net net, int k, const double* units) {
  const float* row = theta + net.out_weight() + k * net.control;
  double sum = theta[net.out_bias() + k];
  for (int j = 0; j < net.control; ++j) sum += double(row[j]) * units[j];
  return sum;
}

// The share of the run that is left, this step with it; all of it where its length is unknown.
UNSTUCK_HD double rest(double t, double num_steps) {
  return num_steps == 0 ? 1 : (t < num_steps ? num_steps - t + 1 : 1) / num_steps;
}

// Puts output k of the tensor network where the coordinates look for it.
template <class S>
UNSTUCK_HD void place_output(Coefs<S>& c, Net net, int k, double value, double rest) {
  if (k < net.hidden)
    c.hidden_bias[k] = S(value);
  else if (k < net.hidden + kDirections)
    c.mix_bias[k - net.hidden] = S(value);
  else if (k == net.hidden + kDirections)
    c.scale = S(exp(within(value, kMostLogScale)));
  else
    c.fade = S(pow(rest, value < 0 ? 0 : within(value, kMostPower)));
}

// Everything else that the coordinates need; `t` counts from 1.
template <class S>
UNSTUCK_HD void set_rates(Coefs<S>& c, Net net, double t, double lr, double weight_decay,
                          bool maximize, double loss_scale, const double* stats) {
  const double rms = stats[kRms], root = stats[kRootRms];
  c.grad_scale = S((maximize ? -1.0 : 1.0) / loss_scale);
  c.step = S(kRate * lr);
  c.decay = S(kRate * lr * weight_decay);
  c.m_free = S(1 / (1 - pow(kBeta, t)));
  c.slow_free = S(1 / (1 - pow(kSlowBeta, t)));
  c.v_free = S(1 / (1 - pow(kSqBeta, t)));
  c.per_rms = S(1 / (rms > kLeastRms ? rms : kLeastRms));
  c.m_even = root > 0 ? S(1 / (1 - pow(kBeta, t)) / root) : S(0);
  c.hidden = net.hidden;
}

// Whether a number is finite, told from its bits: compilers may take it for granted.
UNSTUCK_HD bool has_finite_bits(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (bits >> 52 & 0x7ff) != 0x7ff;
}

// The statistics after a step, from its sums over n coordinates. A coordinate that is not finite
// any more shall not take the others with it: statistics stay as they were.
UNSTUCK_HD void update_stats(double* stats, const Sums<double>& sums, double n, double t) {
  if (!has_finite_bits(sums.xy) || !has_finite_bits(sums.xx) || !has_finite_bits(sums.yy) ||
      !has_finite_bits(sums.aa) || !has_finite_bits(sums.uu) || !has_finite_bits(sums.ww) ||
      !has_finite_bits(sums.vv))
    return;
  const double both = square_root(sums.xx) * square_root(sums.yy);
  const double cosine = both > 0 ? sums.xy / both : 0;
  n = n > 1 ? n : 1;
  const double quick = 1 - kTrend, slow = 1 - kSlowTrend;
  const auto follow = [&](Stat i, double now, double share) {
    stats[i] += share * (now - stats[i]);
  };
  follow(kCosine, cosine, quick);
  follow(kSlowCosine, cosine, slow);
  follow(kAdamSquare, sums.aa / n, quick);
  follow(kGradientSquare, sums.xx / n, quick);
  follow(kUpdateSquare, sums.uu / n, quick);
  stats[kRms] = square_root(sums.ww / n);
  stats[kRootRms] = square_root(sums.vv / n / (1 - pow(kSqBeta, t)));
}

}  // namespace unstuck::learned
