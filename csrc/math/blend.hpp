// The blend of Adam and SGD-momentum, one element at a time. With the gradient g of the minimised
// loss (sign and loss scale removed), alpha in [0, 1] and step count t:
//
//   exp_avg         m <- m + (1 - beta1) (g - m)
//   exp_avg_sq      v <- beta2 v + (1 - beta2) g^2
//   Adam direction  a  = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
//   momentum_buffer b <- momentum b + (1 - dampening) g      (the first time: b = g)
//                   b  = m / (1 - beta1)  when momentum == beta1 and dampening == 0
//   SGD direction   d  = b, with nesterov g + momentum b, without momentum g
//   parameter       w <- w - [ alpha lr a + (1 - alpha) sgd_lr d ]
//
// weight_decay is added to g (as in Adam and SGD), or, decoupled, multiplies w by
// 1 - weight_decay (alpha lr + (1 - alpha) sgd_lr) first (as in AdamW).
//
// The hypergradient of a later loss L' with gradient g' at the new parameters is exact and needs no
// graph: dL'/dalpha = - g' . (u_adam - u_sgd), u the two updates alone. All of u is a function of
// the state after the step, so the next step recomputes it from what it reads anyway.
#pragma once
#include "math/elementary.hpp"

namespace unstuck {

// The rates of one step, in effect or remembered.
struct BlendRates {
  double lr, sgd_lr, beta1, beta2, eps;
  double decay;  // weight_decay where decoupled, else 0
};

// What the user set for one parameter group.
struct BlendGroup {
  BlendRates rates;     // sgd_lr is lr times sgd_lr_ratio
  double sgd_lr_ratio;  // so that a scheduler of lr drives both
  double l2;            // weight_decay where not decoupled, else 0
  double momentum, dampening, alpha;
  bool nesterov, maximize;
};

// One group's numbers for one tensor at one step, in the type that computes.
template <class R>
struct BlendCoefs {
  R grad_scale, l2, keep;
  R beta2, one_minus_beta1, one_minus_beta2, rsqrt_correction2, eps, adam_step;
  R momentum, fresh, unshare, from_grad, from_buffer, sgd_step;
  // the difference u_adam - u_sgd of the previous step
  R prev_rsqrt_correction2, prev_eps, prev_adam, prev_sgd, prev_param;
};

UNSTUCK_HD double bias_correction(double beta, double step) {
  return beta > 0 ? -expm1(step * log(beta)) : 1.0;  // 1 - beta^step
}

// `step` counts from 1. `previous` is null when the last step did not move this tensor;
// `previous_alpha` is the alpha it used.
template <class R>
UNSTUCK_HD BlendCoefs<R> blend_coefficients(const BlendGroup& group, double alpha, double step,
                                            double loss_scale, const BlendRates* previous,
                                            double previous_alpha) {
  const BlendRates& r = group.rates;
  BlendCoefs<R> c;
  c.grad_scale = R((group.maximize ? -1.0 : 1.0) / loss_scale);
  c.l2 = R(group.l2);
  c.keep = R(1.0 - r.decay * (alpha * r.lr + (1.0 - alpha) * r.sgd_lr));
  c.beta2 = R(r.beta2);
  c.one_minus_beta1 = R(1.0 - r.beta1);
  c.one_minus_beta2 = R(1.0 - r.beta2);
  c.rsqrt_correction2 = R(1.0 / square_root(bias_correction(r.beta2, step)));
  c.eps = R(r.eps);
  c.adam_step = R(alpha * r.lr / bias_correction(r.beta1, step));
  c.momentum = R(group.momentum);
  c.fresh = R(step == 1 ? 1.0 : 1.0 - group.dampening);
  c.unshare = R(1.0 / (1.0 - r.beta1));
  const bool has_momentum = group.momentum != 0;
  c.from_grad = R(group.nesterov || !has_momentum ? 1.0 : 0.0);
  c.from_buffer = R(!has_momentum ? 0.0 : group.nesterov ? group.momentum : 1.0);
  c.sgd_step = R((1.0 - alpha) * r.sgd_lr);

  c.prev_rsqrt_correction2 = R(1);
  c.prev_eps = R(1);
  c.prev_adam = c.prev_sgd = c.prev_param = R(0);
  if (previous && step > 1) {
    // With decoupled decay u holds decay * rate * w_old, and w_old = (w + update) / keep.
    const BlendRates& q = *previous;
    const double adam = q.lr / bias_correction(q.beta1, step - 1), sgd = q.sgd_lr;
    const double a = previous_alpha;
    const double keep = 1.0 - q.decay * (a * q.lr + (1.0 - a) * q.sgd_lr);
    const double decay = keep != 0 ? q.decay * (q.lr - q.sgd_lr) / keep : 0.0;
    c.prev_rsqrt_correction2 = R(1.0 / square_root(bias_correction(q.beta2, step - 1)));
    c.prev_eps = R(q.eps);
    c.prev_adam = R(adam * (1.0 + decay * a));
    c.prev_sgd = R(sgd * (1.0 - decay * (1.0 - a)));
    c.prev_param = R(decay);
  }
  return c;
}

template <class R>
UNSTUCK_HD R adam_direction(R m, R v, R rsqrt_correction2, R eps) {
  return m /
         (square_root(v) * rsqrt_correction2 + eps);  // times 1 / (1 - beta1^t), kept in the rates
}

// One step of one element. `grad` is the gradient as stored; g, a and d are handed back for the
// statistics (a without its bias correction).
template <bool HasBuffer, class R>
UNSTUCK_HD void blend_element(R& w, R grad, R& m, R& v, R& buffer, R& g, R& a, R& d,
                              const BlendCoefs<R>& c) {
  g = grad * c.grad_scale;
  const R x = c.l2 != R(0) ? g + c.l2 * w : g;  // a parameter may be infinite: 0 * w is NaN
  m = m + c.one_minus_beta1 * (x - m);
  v = c.beta2 * v + c.one_minus_beta2 * (x * x);
  a = adam_direction(m, v, c.rsqrt_correction2, c.eps);
  if (HasBuffer)
    buffer = c.momentum * buffer + c.fresh * x;
  else
    buffer = m * c.unshare;
  d = c.from_grad * x + c.from_buffer * buffer;
  w = w * c.keep - (c.adam_step * a + c.sgd_step * d);
}

// u_adam - u_sgd of the previous step, from the state that it left. `d` is its SGD direction.
template <class R>
UNSTUCK_HD R previous_difference(R w, R m, R v, R d, const BlendCoefs<R>& c) {
  const R a = adam_direction(m, v, c.prev_rsqrt_correction2, c.prev_eps);
  const R difference = c.prev_adam * a - c.prev_sgd * d;
  return c.prev_param != R(0) ? difference + c.prev_param * w : difference;
}

// The sums over all elements from which the gate's features and the hypergradient are made:
// inner products of the gradient g, the SGD direction d and the Adam direction a, and
// g . (u_adam - u_sgd) of the previous step.
enum BlendSum { kGG, kDD, kAA, kGD, kGA, kDA, kHyper, kBlendSums };

// Gives the sums of one tensor the bias correction that `a` was left without.
UNSTUCK_HD void correct_sums(double* sums, double correction1) {
  sums[kAA] /= correction1 * correction1;
  sums[kGA] /= correction1;
  sums[kDA] /= correction1;
}

}  // namespace unstuck
