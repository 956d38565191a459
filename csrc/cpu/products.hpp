// Small matrix products, many of them, with one side in panels as wide as two vector registers.
#pragma once
#include <cstdint>

namespace unstuck::cpu {

// Columns of a panel.
template <class R>
constexpr int64_t kPanel = 128 / int64_t(sizeof(R));
// Rows of the left side that a product takes best: a multiple of both blockings.
constexpr int64_t kUnits = 24;

// c[i][j] = start[i] + sum_p a[i, p] b[p][j] for i < rows and j < kPanel, or with `add` the sum
// onto c. Element (i, p) of a is at i * a_row + p * a_depth; row p of b at p * b_depth; row i of c
// at i * c_row.
template <class R>
struct Product {
  const R* a;
  int64_t a_row, a_depth;
  const R* b;
  int64_t b_depth;
  R* c;
  int64_t c_row;
  const R* start;  // null: 0
  int64_t rows, depth;
  bool add;
};

void multiply(const Product<float>& p);
void multiply(const Product<double>& p);

}  // namespace unstuck::cpu
