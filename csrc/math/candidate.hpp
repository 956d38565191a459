// One coordinate of one candidate: x = bound(mean + sigma scale eps).
#pragma once
#include "math/elementary.hpp"

namespace unstuck {

enum class Bound : int { none, clip, reflect };

// Folds a point outside [low, high] back inside, at a border that is there.
template <class R>
UNSTUCK_HD R reflected(R x, R low, R high) {
  const R width = high - low;
  R turns = (x - low) / width;
  turns -= R(2) * below(turns * R(0.5));
  const R folded = low + (turns > R(1) ? R(2) - turns : turns) * width;
  const R once = x < low ? R(2) * low - x : R(2) * high - x;
  const R inside = width > R(0) && width - width == R(0) ? folded : once;
  return x < low || x > high ? inside : x;
}

template <class R>
UNSTUCK_HD R bounded(Bound bound, R x, R low, R high) {
  if (bound == Bound::none) return x;
  if (bound == Bound::reflect) x = reflected(x, low, high);
  x = x < low ? low : x;
  return x > high ? high : x;
}
template <Bound bound, class R>
UNSTUCK_HD R placed(R mean, R step, R eps, R low, R high) {
  return bounded(bound, mean + step * eps, low, high);
}

}  // namespace unstuck
