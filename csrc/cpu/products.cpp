// This file is compiled with contraction: products with fused additions round once, and differ in
// the last bits between instruction sets, as those of any matrix library do.
#include "cpu/products.hpp"

#include <cstring>

#include "cpu/transpose.hpp"

namespace unstuck::cpu {

namespace {

// kRows rows from `i` on: sums in registers, two loads and kRows broadcasts for 2 kRows products.
template <int kRows, class R>
UNSTUCK_INLINE void block(const Product<R>& p, int64_t i) {
  using V = typename Vector<R>::type;
  constexpr int64_t W = 64 / int64_t(sizeof(R));
  V low[kRows], high[kRows];
  for (int r = 0; r < kRows; ++r) {
    if (p.add) {
      std::memcpy(&low[r], p.c + (i + r) * p.c_row, 64);
      std::memcpy(&high[r], p.c + (i + r) * p.c_row + W, 64);
    } else {
      const R s = p.start ? p.start[i + r] : R(0);
      low[r] = V{} + s;
      high[r] = V{} + s;
    }
  }
  const R *a = p.a + i * p.a_row, *b = p.b;
  const int64_t a_row = p.a_row, a_depth = p.a_depth, b_depth = p.b_depth, depth = p.depth;
  for (int64_t k = 0; k < depth; ++k, a += a_depth, b += b_depth) {
    V l, h;
    std::memcpy(&l, b, 64);
    std::memcpy(&h, b + W, 64);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const R x = a[r * a_row];
      low[r] += x * l;
      high[r] += x * h;
    }
  }
  for (int r = 0; r < kRows; ++r) {
    std::memcpy(p.c + (i + r) * p.c_row, &low[r], 64);
    std::memcpy(p.c + (i + r) * p.c_row + W, &high[r], 64);
  }
}

// The rows that are left when blocks of kRows are done.
template <int kRows, class R>
UNSTUCK_INLINE void blocks(const Product<R>& p) {
  int64_t i = 0;
  for (; i + kRows <= p.rows; i += kRows) block<kRows>(p, i);
  if constexpr (kRows > 4)
    for (; i + 4 <= p.rows; i += 4) block<4>(p, i);
  for (; i < p.rows; ++i) block<1>(p, i);
}

UNSTUCK_CLONES void wide(const Product<float>& p) { blocks<8>(p); }
UNSTUCK_CLONES void wide(const Product<double>& p) { blocks<8>(p); }
UNSTUCK_CLONES void narrow(const Product<float>& p) { blocks<3>(p); }
UNSTUCK_CLONES void narrow(const Product<double>& p) { blocks<3>(p); }

// Whether there are 32 registers of 64 bytes.
bool many_registers() {
#if UNSTUCK_HAS_CLONES
  static const bool many = __builtin_cpu_supports("x86-64-v4");
  return many;
#else
  return false;
#endif
}

}  // namespace

void multiply(const Product<float>& p) { many_registers() ? wide(p) : narrow(p); }
void multiply(const Product<double>& p) { many_registers() ? wide(p) : narrow(p); }

}  // namespace unstuck::cpu
