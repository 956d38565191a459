// Box-Muller in float32: two random words become two independent normal deviates.
//
//   u = ((word >> 9) + 1/2) / 2^23      exact, from 2^-24 to 1 - 2^-24
//   r = sqrt(-2 log u0),  r cos(2 pi u1) and r sin(2 pi u1)
//
// The angle is taken from its half, a = pi (u1 - 1/2), which needs no quadrants:
// cos(2 pi u1) = 2 sin(a)^2 - 1 and sin(2 pi u1) = -2 sin(a) cos(a).
#pragma once
#include "math/elementary.hpp"

namespace unstuck {

UNSTUCK_HD float unit_interval(uint32_t word) {
  return (float(int32_t(word >> 9)) + 0.5f) * 1.1920928955078125e-07f;
}

// sqrt(-2 log u) for a normal number u in (0, 1): u = m 2^e with m about 1, and
// log m = 2 atanh s, s = (m - 1) / (m + 1).
UNSTUCK_HD float normal_radius(float u) {
  constexpr uint32_t kRootHalf = 0x3f3504f3u;
  uint32_t bits;
  memcpy(&bits, &u, sizeof bits);
  const int32_t e = int32_t(bits - kRootHalf) >> 23;
  bits -= uint32_t(e) << 23;
  float m;
  memcpy(&m, &bits, sizeof m);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float t = s * s;
  const float log_m = 2.0f * s + s * t * horner(t, 0.66666776f, 0.39977542f, 0.2987173f);
  return square_root(-2.0f * (float(e) * 0.6931472f + log_m));
}

UNSTUCK_HD void box_muller(uint32_t word0, uint32_t word1, float& x, float& y) {
  const float r = normal_radius(unit_interval(word0));
  const float half = unit_interval(word1) - 0.5f;
  const float s = sin_pi_near(half), c = cos_pi_near(half);
  x = r * (2.0f * (s * s) - 1.0f);
  y = r * (-2.0f * (s * c));
}

}  // namespace unstuck
