// Losses of a model's outputs, a row at a time.
//
//   binary cross-entropy   log(1 + exp(z)) - y z = max(z, 0) - y z + log(1 + exp(-abs(z)))
//   cross-entropy          log sum_c exp(z_c) - z_y
//
// Logarithms are few: those of many rows are one of a product. It is kept as p with 1 + p the
// product, so that no small term is lost.
#pragma once
#include "math/elementary.hpp"

namespace unstuck {

// Rows whose product is kept in one number: it is at most 2^kProduct.
constexpr int kProduct = 32;

// The part of binary cross-entropy that is no logarithm.
template <class R>
UNSTUCK_HD R bce_linear(R z, R y) {
  return (z < R(0) ? R(0) : z) - y * z;  // NaN stays
}
// p with 1 + p multiplied by 1 + exp(-abs(z)).
template <class R>
UNSTUCK_HD R bce_product(R p, R z) {
  const R e = exp_negative(z < R(0) ? z : -z);
  return p + (e + p * e);
}
// The slope of the loss.
template <class R>
UNSTUCK_HD R bce_slope(R z, R y) {
  const R e = exp_negative(z < R(0) ? z : -z);
  return (z < R(0) ? e : R(1)) / (R(1) + e) - y + (z - z);  // NaN stays
}
template <class R>
UNSTUCK_HD R relu(R x) {
  return x < R(0) ? R(0) : x;  // NaN stays
}

// log sum exp(z) of outputs that come one after the other: the sum is kept relative to the highest.
template <class R>
struct LogSum {
  R top = R(0), sum = R(0);
  bool empty = true;
  UNSTUCK_HD void add(R z) {
    if (empty) top = z;
    empty = false;
    if (z > top) {
      sum *= exp_negative(top - z);
      top = z;
    }
    const R way = z - top;
    sum += exp_negative(way) + (way - way);  // NaN stays
  }
  UNSTUCK_HD double value() const { return double(top) + log(double(sum)); }
};

}  // namespace unstuck
