// Whitening on the CPU. Everything goes by panels of columns of what is written, each by itself: a
// panel of the whitened gradient, which both products can follow one another in, or a panel of a
// mean, of which the part on and below the diagonal is computed and then mirrored.
#include "cpu/whitening.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.hpp"
#include "cpu/buffer.hpp"
#include "cpu/products.hpp"
#include "cpu/transpose.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t kWide = kPanel<float>;
constexpr int64_t kFewRows = 24;  // that do not pay for the copy of a panel
constexpr int64_t kCost = 16;     // products that cost as much as an element of a loop over memory

struct Unit {
  enum Kind { kOut, kRows, kColumns } kind;
  size_t matrix;
  int64_t student, first;  // column
};

// A factor of a product, by panel.
struct Panel {
  const float* data;
  int64_t row;
};

// Columns from `first` on of a matrix with `depth` rows, as a panel of full width.
Panel panel_of(const float* x, int64_t depth, int64_t columns, int64_t first, int64_t uses,
               Buffer<float>& room) {
  const int64_t width = std::min(kWide, columns - first);
  if (width == kWide && uses <= kFewRows) return {x + first, columns};
  room.resize(size_t(depth * kWide));
  for (int64_t p = 0; p < depth; ++p) {
    float* to = room.data() + p * kWide;
    std::memcpy(to, x + p * columns + first, size_t(width) * sizeof(float));
    std::fill(to + width, to + kWide, 0.0f);
  }
  return {room.data(), kWide};
}

// Rows from `first` on, turned: a panel as deep as the matrix has columns.
Panel turned_panel_of(const float* x, int64_t rows, int64_t columns, int64_t first,
                      Buffer<float>& room) {
  const int64_t width = std::min(kWide, rows - first);
  room.resize(size_t(columns * kWide));
  if (width < kWide) std::fill(room.begin(), room.end(), 0.0f);
  turn(x + first * columns, width, columns, columns, room.data(), kWide);
  return {room.data(), kWide};
}

// Room of one thread, which stays from call to call.
struct Room {
  Buffer<float> panel, between, sums;
};
Room& room() {
  thread_local Room r;
  return r;
}

// c = a b for one panel b of `depth` rows.
void multiply_panel(const float* a, int64_t a_row, int64_t a_depth, int64_t rows, Panel b,
                    int64_t depth, float* c, int64_t c_row) {
  multiply(Product<float>{a, a_row, a_depth, b.data, b.row, c, c_row, nullptr, rows, depth, false});
}

void whiten_panel(const WhitenedMatrix& m, int64_t student, int64_t first) {
  const int64_t r = m.row_count, c = m.column_count, width = std::min(kWide, c - first);
  const float* g = m.g + student * m.stride;
  float* out = m.out + student * r * c + first;
  Room& at = room();
  at.sums.resize(size_t(r * kWide));
  // The last product may write its panel in place when it is as wide as a panel.
  float* to = width == kWide ? out : at.sums.data();
  const int64_t to_row = width == kWide ? c : kWide;
  Panel b;
  if (m.columns.root) {
    b = panel_of(m.columns.root + student * c * c, c, c, first, r, at.panel);
    if (!m.rows.root) {
      multiply_panel(g, c, 1, r, b, c, to, to_row);
    } else {
      at.between.resize(size_t(r * kWide));
      multiply_panel(g, c, 1, r, b, c, at.between.data(), kWide);
      b = {at.between.data(), kWide};
    }
  } else {
    b = panel_of(g, r, c, first, r, at.panel);
  }
  if (m.rows.root) multiply_panel(m.rows.root + student * r * r, r, 1, r, b, r, to, to_row);
  if (width < kWide)
    for (int64_t i = 0; i < r; ++i)
      std::memcpy(out + i * c, to + i * kWide, size_t(width) * sizeof(float));
}

void look_panel(const WhitenedMatrix& m, bool rows, int64_t student, int64_t first) {
  const int64_t r = m.row_count, c = m.column_count, n = rows ? r : c, depth = rows ? c : r;
  const int64_t width = std::min(kWide, n - first);
  const float* g = m.g + student * m.stride;
  float* mean = (rows ? m.rows : m.columns).mean + student * n * n;
  Room& at = room();
  const Panel b = rows ? turned_panel_of(g, r, c, first, at.panel)
                       : panel_of(g, r, c, first, n - first, at.panel);
  at.sums.resize(size_t((n - first) * kWide));
  const float* sums = at.sums.data();
  if (rows)
    multiply_panel(g + first * c, c, 1, n - first, b, depth, at.sums.data(), kWide);
  else
    multiply_panel(g + first, 1, c, n - first, b, depth, at.sums.data(), kWide);
  const auto weight = float(m.weight), share = float(m.share);
  for (int64_t i = first; i < n; ++i, sums += kWide) {
    float* row = mean + i * n + first;
    for (int64_t j = 0; j < width; ++j) row[j] += weight * (share * sums[j] - row[j]);
    if (i >= first + width)
      for (int64_t j = 0; j < width; ++j) mean[(first + j) * n + i] = row[j];
  }
}

bool finite_square(const float* g, int64_t n) {
  float sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int64_t l = 0; l < 16; ++l) sums[l] += g[i + l] * g[i + l];
  float sum = 0;
  for (; i < n; ++i) sum += g[i] * g[i];
  for (float s : sums) sum += s;
  return std::isfinite(sum);
}

}  // namespace

void whiten(const std::vector<WhitenedMatrix>& matrices, int threads) {
  std::vector<Unit> units;
  int64_t products = 0;
  const auto add = [&](Unit::Kind kind, size_t i, int64_t student, int64_t columns) {
    for (int64_t first = 0; first < columns; first += kWide)
      units.push_back({kind, i, student, first});
  };
  const auto sides = [](const WhitenedMatrix& m) {
    return (m.rows.root ? m.row_count : 0) + (m.columns.root ? m.column_count : 0);
  };
  for (size_t i = 0; i < matrices.size(); ++i) {  // panels of means first: they take longest
    const WhitenedMatrix& m = matrices[i];
    const int64_t r = m.row_count, c = m.column_count;
    for (int64_t k = 0; k < m.students; ++k) {
      if (m.weight == 0 || !finite_square(m.g + k * m.stride, r * c)) continue;
      if (m.rows.root) add(Unit::kRows, i, k, r);
      if (m.columns.root) add(Unit::kColumns, i, k, c);
      products += r * c * sides(m) / 2;
    }
  }
  for (size_t i = 0; i < matrices.size(); ++i) {
    const WhitenedMatrix& m = matrices[i];
    if (!m.out) continue;
    for (int64_t k = 0; k < m.students; ++k) add(Unit::kOut, i, k, m.column_count);
    products += m.students * m.row_count * m.column_count * sides(m);
  }
  parallel_for(int64_t(units.size()), products / kCost, threads, [&](int64_t u) {
    const Unit& unit = units[size_t(u)];
    const WhitenedMatrix& m = matrices[unit.matrix];
    if (unit.kind == Unit::kOut)
      whiten_panel(m, unit.student, unit.first);
    else
      look_panel(m, unit.kind == Unit::kRows, unit.student, unit.first);
  });
}

}  // namespace unstuck::cpu
