// What the binding hands to the kernels of the objectives with data, whatever the device.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"

namespace unstuck {

// mean (X w - y)^2 + lam sin(kappa norm(w)^2), or mean log(1 + exp(z)) - y z with z = X w.
struct Regression {
  const void *x, *y;  // [n, D] with `stride` elements between rows, and [n]
  int64_t n, dim, stride;
  double lam, kappa;
  bool logistic;
  DType dtype;
};

// Points w - rates[k] d. Where `moved` is not null the step is taken too.
struct Trials {
  const void *w, *d, *rates;  // [D], [D], [K]
  int64_t count;
  double beta;
  void *losses, *p, *moved, *rate;  // [K], [K], [D], one
  double* workspace;                // on the device; null on the CPU
  int64_t workspace_size;
};

// Outputs of a two-layer net at w and along d: what is linear in the parameters, computed before.
struct NetTrials {
  const void *first, *slope;    // W1 x + b1 and its change along d, [H, n]
  const void *second, *change;  // the second layer's part of w and d: W2 [C, H], then b2 [C]
  const void* y;                // [n], of the dtype or int64
  int64_t n, hidden, outputs;
  bool cross_entropy;
  DType dtype;
};

// A two-layer net's data; its weights are W1 [H, F], b1 [H], W2 [C, H], b2 [C] in one vector.
struct NetData {
  const void *x, *y;  // [n, F] with `stride` elements between rows; [n], of the dtype or int64
  int64_t n, features, stride, hidden, outputs;
  bool cross_entropy;
  int64_t dim() const { return hidden * (features + 1) + outputs * (hidden + 1); }
};

}  // namespace unstuck
