// Registers as values: formulas over numbers compute with them as they are. Include this before the
// formulas, which look square_root up where they stand.
#pragma once
#include <cstdint>

#include "core/macros.hpp"
#include "math/elementary.hpp"

// Everything is inlined, so that no register is ever passed.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace unstuck {

// 64 bytes: one register of AVX-512, two of AVX2, four of SSE2 and NEON.
typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));

UNSTUCK_INLINE Floats square_root(Floats x) {
  for (int i = 0; i < 16; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
UNSTUCK_INLINE Doubles square_root(Doubles x) {
  for (int i = 0; i < 8; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}

}  // namespace unstuck
