// Activations of a layer, and their slopes.
//
//   tanh      (1 - exp(-2 x)) / (1 + exp(-2 x)), its series near 0
//   sigmoid   1 / (1 + exp(-x))
//   gelu      x Phi(x) with Phi the normal distribution, or its approximation by tanh
//
// NaN stays in all of them.
#pragma once
#include "math/elementary.hpp"
#include "math/mlp.hpp"

namespace unstuck {

enum class Activation : int { none, relu, tanh, sigmoid, gelu, gelu_tanh };
constexpr int kActivations = 6;

// Whether the slope is a function of the activation itself.
constexpr bool slope_from_value(Activation a) {
  return a != Activation::gelu && a != Activation::gelu_tanh;
}

UNSTUCK_HD float hyperbolic_tangent(float x) {
  const float size = magnitude(x), e = exp_negative(-2.0f * size);
  const float far = (1.0f - e) / (1.0f + e), s = x * x;
  const float near = x * horner(s, 1.0f, -0.33333333f, 0.13333334f, -0.053968254f, 0.021869488f,
                                -0.0088632355f, 0.003592128f);
  return size < 0.4f ? near : x < 0.0f ? -far : far;
}
template <class R>
UNSTUCK_HD R logistic(R x) {
  const R e = exp_negative(x < R(0) ? x : -x);
  return (x < R(0) ? e : R(1)) / (R(1) + e);
}
// Phi(x), to 1e-7 (Abramowitz and Stegun, 7.1.26).
UNSTUCK_HD float normal_distribution(float x) {
  const float size = magnitude(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * size);
  const float tail =
      0.5f * t * exp_negative(-size * size) *
      horner(t, 0.254829592f, -0.284496736f, 1.421413741f, -1.453152027f, 1.061405429f);
  return x < 0.0f ? tail : 1.0f - tail;
}
UNSTUCK_HD double hyperbolic_tangent(double x) { return tanh(x); }
UNSTUCK_HD double normal_distribution(double x) { return 0.5 * erfc(-x * 0.7071067811865476); }

template <class R>
UNSTUCK_HD R gelu_argument(R x) {
  return R(0.7978845608028654) * (x + R(0.044715) * (x * x * x));
}

template <Activation a, class R>
UNSTUCK_HD R activated(R x) {
  if constexpr (a == Activation::relu) return relu(x);
  if constexpr (a == Activation::tanh) return hyperbolic_tangent(x);
  if constexpr (a == Activation::sigmoid) return logistic(x);
  if constexpr (a == Activation::gelu) return x * normal_distribution(x);
  if constexpr (a == Activation::gelu_tanh)
    return R(0.5) * x * (R(1) + hyperbolic_tangent(gelu_argument(x)));
  return x;
}
// The slope, from the activation h where slope_from_value(), else from what is activated.
template <Activation a, class R>
UNSTUCK_HD R activation_slope(R h) {
  if constexpr (a == Activation::relu) return h > R(0) ? R(1) : R(0);
  if constexpr (a == Activation::tanh) return R(1) - h * h;
  if constexpr (a == Activation::sigmoid) return h * (R(1) - h);
  if constexpr (a == Activation::gelu)
    return normal_distribution(h) + h * R(0.3989422804014327) * exp_negative(R(-0.5) * h * h);
  if constexpr (a == Activation::gelu_tanh) {
    const R t = hyperbolic_tangent(gelu_argument(h));
    const R slope = R(0.7978845608028654) * (R(1) + R(0.134145) * (h * h));
    return R(0.5) * (R(1) + t) + R(0.5) * h * (R(1) - t * t) * slope;
  }
  return R(1);
}

}  // namespace unstuck
