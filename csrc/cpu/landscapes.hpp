// The landscapes over vectors: lanes along the coordinates of one candidate (a row), or along
// sixteen candidates (a column).
#pragma once
#include "math/landscapes.hpp"
#include "math/philox.hpp"

namespace unstuck::cpu {

// The two accumulators of a candidate, between the pieces of a row.
struct LandscapeSums {
  double a, b;
};

template <class R>
struct LandscapeKernels {
  // Coordinates [begin, begin + n) of a row; `x` points at the first, and where begin > 0 the one
  // before it can be read too.
  void (*row)(const LandscapeParameters&, const R* x, int64_t begin, int64_t n, LandscapeSums&);
  R (*finish)(const LandscapeParameters&, const LandscapeSums&, R first, R last, int64_t dim);
  LandscapeSums start;
  // The losses of sixteen candidates: `x` [dim, 16].
  void (*column)(const LandscapeParameters&, const R* x, int64_t dim, R* losses);
  // The gradient [dim] at a whole row, from its sums.
  void (*gradient)(const LandscapeParameters&, const R* x, int64_t dim, const LandscapeSums&, R*);
};

template <class R>
const LandscapeKernels<R>& landscape_kernels(int landscape);

}  // namespace unstuck::cpu
