// What surrounds the cell of the coordinatewise LSTM rule, one coordinate at a time;
// unstuck.learned.LSTM says the same in torch.
//
//   moments   m <- m + (1 - 0.9) (g - m),  v <- 0.999 v + (1 - 0.999) g g,  D = sqrt(v^) + eps
//   features  gradient: g, w;  log: log|g| / 10, sign g, w;
//             rich: these, m^/D, g/D, log D / 10, the bent step count, the progress
//   cell      i, f, o: logistic, z: tanh of W x + U h + b;  c <- f c + i z,  h <- o tanh c
//   step      w <- (1 - rate lr weight_decay) w - rate lr (nominal m^/D + scale v . h)
#pragma once
#if !defined(__CUDACC__)
#include <cmath>
#endif

#include "math/activation.hpp"

namespace unstuck::lstm {

enum class Features : int { gradient, log, rich };
constexpr int kFeatures = 8;  // at most
constexpr int kMostHidden = 64;
constexpr double kRate = 1e-3, kEps = 1e-8, kBeta = 0.9, kSqBeta = 0.999;
constexpr float kLeast = 1e-16f, kHighest = 10.0f;

UNSTUCK_HD constexpr int count(Features f) {
  return f == Features::gradient ? 2 : f == Features::log ? 3 : kFeatures;
}

// Where a rule's weights lie, in the order of its torch parameters.
struct Net {
  Features features;
  int32_t hidden;
  bool nominal;
  double scale;
  UNSTUCK_HD int32_t inputs() const { return count(features); }
  UNSTUCK_HD int32_t bias() const { return 4 * hidden * inputs(); }
  UNSTUCK_HD int32_t recurrent() const { return bias() + 4 * hidden; }
  UNSTUCK_HD int32_t out() const { return recurrent() + 4 * hidden * hidden; }
  UNSTUCK_HD int32_t size() const { return out() + hidden; }
};

struct Coefs {
  float grad_scale, step, keep, m_free, v_free, time, progress;
};

UNSTUCK_HD Coefs coefficients(double t, double lr, double weight_decay, double num_steps,
                              bool maximize, double loss_scale) {
  const double bent = t / 100;
  return {float((maximize ? -1.0 : 1.0) / loss_scale),
          float(kRate * lr),
          float(1 - kRate * lr * weight_decay),
          float(1 / (1 - pow(kBeta, t))),
          float(1 / (1 - pow(kSqBeta, t))),
          float(1 - 2 / (1 + bent * bent)),
          float(num_steps == 0  ? 0
                : t < num_steps ? t / num_steps
                                : 1)};
}

UNSTUCK_HD float cut(float x) {  // NaN stays
  return x > kHighest ? kHighest : x < -kHighest ? -kHighest : x;
}

// Moves the moments, and returns Adam's direction.
UNSTUCK_HD float moments(float g, float& m, float& v, const Coefs& c, float& d) {
  m = m + float(1 - kBeta) * (g - m);
  v = float(kSqBeta) * v + float(1 - kSqBeta) * g * g;
  d = square_root(v * c.v_free) + float(kEps);
  return m * c.m_free / d;
}

// Feature k of a coordinate is written to x[k * stride].
UNSTUCK_HD void features(Features kind, float w, float g, float direction, float d, const Coefs& c,
                         float* x, int64_t stride) {
  if (kind == Features::gradient) {
    x[0] = cut(g);
    x[stride] = cut(w);
    return;
  }
  const float size = g < 0 ? -g : g;
  const bool tiny = size < kLeast;
  x[0] = logarithm(tiny ? kLeast : size) / 10;
  x[stride] = tiny ? 0.0f : g > 0 ? 1.0f : g < 0 ? -1.0f : g;
  x[2 * stride] = cut(w);
  if (kind == Features::log) return;
  x[3 * stride] = cut(direction);
  x[4 * stride] = cut(g / d);
  x[5 * stride] = logarithm(d) / 10;
  x[6 * stride] = c.time;
  x[7 * stride] = c.progress;
}

// logistic(a) tanh(b), by one quotient.
UNSTUCK_HD float gated(float a, float b) {
  const float up = exp_negative(a < 0.0f ? a : -a), down = exp_negative(-2.0f * magnitude(b));
  const float size = (a < 0.0f ? up : 1.0f) * (1.0f - down) / ((1.0f + up) * (1.0f + down));
  return b < 0.0f ? -size : size;
}

// A hidden unit, of what its gates are made of; its cell moves.
UNSTUCK_HD float cell(float i, float f, float o, float z, float& c) {
  c = logistic(f) * c + gated(i, z);
  return gated(o, c);
}

// The parameter after the step; `change` is v . h.
UNSTUCK_HD float moved(float w, float direction, float change, const Net& net, const Coefs& c) {
  return w * c.keep - c.step * ((net.nominal ? direction : 0.0f) + float(net.scale) * change);
}

}  // namespace unstuck::lstm
