// 16-bit floating point as bits: loads widen to float, stores round to nearest even. Choices are
// made with masks, not with ?:, which compilers turn back into branches and then do not vectorise.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/macros.hpp"

namespace unstuck {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// The type in which a stored type is computed.
template <class T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <class T>
using arithmetic_t = typename Arithmetic<T>::type;

UNSTUCK_HD float float_of_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
UNSTUCK_HD uint32_t bits_of_float(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

UNSTUCK_HD uint32_t choose(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = 0u - uint32_t(condition);
  return (yes & mask) | (no & ~mask);
}

UNSTUCK_HD float widen(float x) { return x; }
UNSTUCK_HD double widen(double x) { return x; }
UNSTUCK_HD float widen(bfloat16 x) { return float_of_bits(uint32_t(x.bits) << 16); }
UNSTUCK_HD float widen(float16 x) {
  // Shift exponent and mantissa into place and rebias by a multiplication with 2^112, which also
  // normalises subnormals; infinities and NaN then get the full exponent.
  const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13;
  const float finite = float_of_bits(magnitude) * float_of_bits(0x77800000u);
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t u = choose(magnitude >= 0x0f800000u, special, bits_of_float(finite));
  return float_of_bits(u | uint32_t(x.bits & 0x8000) << 16);
}

template <class T>
UNSTUCK_HD T narrow(arithmetic_t<T> x) {
  return x;
}
template <>
UNSTUCK_HD bfloat16 narrow<bfloat16>(float x) {
  const uint32_t u = bits_of_float(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return {uint16_t(choose((u & 0x7fffffffu) > 0x7f800000u, 0x7fc0u, rounded))};
}
template <>
UNSTUCK_HD float16 narrow<float16>(float x) {
  const uint32_t u = bits_of_float(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  // normal: rebias, round to nearest even at bit 13
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // below 2^-14: 0.5 has the ulp 2^-24, so adding it rounds to a multiple of 2^-24
  const uint32_t small = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t h = choose(magnitude < 0x38800000u, small, normal);
  h = choose(magnitude >= 0x477ff000u, 0x7c00u, h);  // 65520 and above
  h = choose(magnitude > 0x7f800000u, 0x7e00u, h);   // NaN
  return {uint16_t(h | sign)};
}

}  // namespace unstuck
