// Turns a matrix, a square of vector registers at a time.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/macros.hpp"

namespace unstuck::cpu {

// 64 bytes: one register of AVX-512, two of AVX2, four of SSE2 and NEON.
template <class R>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(64)));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(64)));
};

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define UNSTUCK_HAS_SHUFFLE 1
#endif
#endif

#ifdef UNSTUCK_HAS_SHUFFLE
// Changes the off-diagonal squares of S x S in pairs of rows that are S apart.
template <int S, class V, int... I>
UNSTUCK_INLINE void exchange(V& a, V& b, std::integer_sequence<int, I...>) {
  constexpr int W = int(sizeof...(I));
  const V low = __builtin_shufflevector(a, b, ((I & S) ? W + I - S : I)...);
  b = __builtin_shufflevector(a, b, ((I & S) ? W + I : I + S)...);
  a = low;
}
template <int S, int W, class V>
UNSTUCK_INLINE void turn_rows(V* rows) {
  for (int i = 0; i < W; ++i)
    if (!(i & S)) exchange<S>(rows[i], rows[i + S], std::make_integer_sequence<int, W>());
  if constexpr (2 * S < W) turn_rows<2 * S, W>(rows);
}
#endif

// to[j * to_row + i] = from[i * from_row + j] of a square as wide as a register.
template <class R>
UNSTUCK_INLINE void turn_square(const R* from, int64_t from_row, R* to, int64_t to_row) {
  constexpr int W = 64 / int(sizeof(R));
#ifdef UNSTUCK_HAS_SHUFFLE
  typename Vector<R>::type rows[W];
  for (int i = 0; i < W; ++i) std::memcpy(&rows[i], from + i * from_row, 64);
  turn_rows<1, W>(rows);
  for (int i = 0; i < W; ++i) std::memcpy(to + i * to_row, &rows[i], 64);
#else
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) to[j * to_row + i] = from[i * from_row + j];
#endif
}

// to[c * to_row + r] = from[r * from_row + c] for r < rows and c < columns.
template <class R>
UNSTUCK_INLINE void turn(const R* from, int64_t rows, int64_t columns, int64_t from_row, R* to,
                         int64_t to_row) {
  constexpr int64_t W = 64 / int64_t(sizeof(R));
  for (int64_t r = 0; r < rows; r += W)
    for (int64_t c = 0; c < columns; c += W) {
      if (r + W <= rows && c + W <= columns) {
        turn_square(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
        continue;
      }
      for (int64_t i = r; i < rows && i < r + W; ++i)
        for (int64_t j = c; j < columns && j < c + W; ++j)
          to[j * to_row + i] = from[i * from_row + j];
    }
}

}  // namespace unstuck::cpu
