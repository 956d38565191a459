// Adam, one element at a time, with the operations of torch.optim.Adam(fused=True) in their order,
// so that both leave the same bits (but for the last elements of a tensor, fewer than a register
// holds, which torch rounds otherwise). With the gradient g of the minimised loss and step count t:
//
//   exp_avg     m <- m + (1 - beta1) (g - m)                            one fma
//   exp_avg_sq  v <- beta2 v + (1 - beta2) g g                          one fma
//   parameter   w <- w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// weight_decay is added to g (as in Adam), or, decoupled, multiplies w by 1 - lr weight_decay first
// (as in AdamW).
#pragma once
#if !defined(__CUDACC__)
#include <cmath>
#endif

#include "math/elementary.hpp"

namespace unstuck {

// What the user set for one parameter group.
struct AdamGroup {
  double lr, beta1, beta2, eps;
  double decay;  // weight_decay where decoupled, else 0
  double l2;     // weight_decay where not
  bool maximize;
};

// One group's numbers for one tensor at one step, in the type that computes.
template <class R>
struct AdamCoefs {
  R grad_scale, l2, keep;
  R lerp;  // 1 - beta1, less 1 where the new gradient weighs more than half
  R beta2, one_minus_beta2, root_correction2, eps, step;
  bool from_grad;  // see lerp
};

// a b + c, rounded once. Processors without the instruction that build no clones round twice.
template <class R>
UNSTUCK_HD R fused(R a, R b, R c) {
#if defined(__CUDA_ARCH__) || UNSTUCK_HAS_CLONES || defined(__FMA__) || defined(__aarch64__)
  if constexpr (sizeof(R) == 4)
    return __builtin_fmaf(a, b, c);
  else
    return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// `step` counts from 1.
UNSTUCK_HD AdamCoefs<double> adam_coefficients(const AdamGroup& group, double step,
                                               double loss_scale) {
  AdamCoefs<double> c;
  c.grad_scale = (group.maximize ? -1.0 : 1.0) / loss_scale;
  c.l2 = group.l2;
  c.keep = 1.0 - group.lr * group.decay;
  c.from_grad = !(float(1.0 - group.beta1) < 0.5f);
  c.lerp = 1.0 - group.beta1;
  c.beta2 = group.beta2;
  c.one_minus_beta2 = 1.0 - group.beta2;
  c.root_correction2 = square_root(1.0 - pow(group.beta2, step));
  c.eps = group.eps;
  c.step = -(group.lr / (1.0 - pow(group.beta1, step)));
  return c;
}

template <class R>
UNSTUCK_HD AdamCoefs<R> narrowed(const AdamCoefs<double>& c) {
  const R lerp = c.from_grad ? R(c.lerp) - R(1) : R(c.lerp);
  return {R(c.grad_scale),       R(c.l2),  R(c.keep), lerp,       R(c.beta2), R(c.one_minus_beta2),
          R(c.root_correction2), R(c.eps), R(c.step), c.from_grad};
}

// One step of one element. Returns its gradient, free of sign and loss scale. `FromGrad` is that of
// the coefficients; as a variable it would keep compilers from vectorising.
template <bool FromGrad, class R>
UNSTUCK_HD R adam_element(R& w, R grad, R& m, R& v, const AdamCoefs<R>& c) {
  const R g = grad * c.grad_scale;
  const R x = c.l2 != R(0) ? fused(w, c.l2, g) : g;  // a parameter may be infinite: 0 * w is NaN
  m = fused(c.lerp, x - m, FromGrad ? x : m);
  v = fused(c.one_minus_beta2 * x, x, c.beta2 * v);
  w = w * c.keep + (c.step * m) / (square_root(v) / c.root_correction2 + c.eps);
  return g;
}

}  // namespace unstuck
