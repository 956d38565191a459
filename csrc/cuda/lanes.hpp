// Neighbouring elements that a thread computes side by side: what is read for one of them, such as
// the weights of a network, is read for all.
#pragma once
#include "core/macros.hpp"
#include "math/elementary.hpp"

namespace unstuck::cuda {

template <class R, int N>
struct Lanes {
  R x[N];
};

// value(k) in lane k.
template <class R, int N, class F>
UNSTUCK_HD Lanes<R, N> lanes(const F& value) {
  Lanes<R, N> to;
  for (int k = 0; k < N; ++k) to.x[k] = value(k);
  return to;
}

template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator+(const Lanes<R, N>& a, const Lanes<R, N>& b) {
  return lanes<R, N>([&](int k) { return a.x[k] + b.x[k]; });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator-(const Lanes<R, N>& a, const Lanes<R, N>& b) {
  return lanes<R, N>([&](int k) { return a.x[k] - b.x[k]; });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator*(const Lanes<R, N>& a, const Lanes<R, N>& b) {
  return lanes<R, N>([&](int k) { return a.x[k] * b.x[k]; });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator+(const Lanes<R, N>& a, R b) {
  return lanes<R, N>([&](int k) { return a.x[k] + b; });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator+(R a, const Lanes<R, N>& b) {
  return b + a;
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator*(const Lanes<R, N>& a, R b) {
  return lanes<R, N>([&](int k) { return a.x[k] * b; });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator*(R a, const Lanes<R, N>& b) {
  return b * a;
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> operator/(R a, const Lanes<R, N>& b) {
  return lanes<R, N>([&](int k) { return a / b.x[k]; });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> square_root(const Lanes<R, N>& a) {
  return lanes<R, N>([&](int k) { return unstuck::square_root(a.x[k]); });
}
template <class R, int N>
UNSTUCK_HD void operator+=(Lanes<R, N>& a, const Lanes<R, N>& b) {
  a = a + b;
}
// All of them are added to one number.
template <class R, int N>
UNSTUCK_HD void operator+=(R& sum, const Lanes<R, N>& a) {
  for (int k = 0; k < N; ++k) sum += a.x[k];
}

}  // namespace unstuck::cuda
