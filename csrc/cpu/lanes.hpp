// The sums of a blend step over one chunk.
#pragma once
#include "math/blend.hpp"

namespace unstuck::cpu {

// Partial sums are kept in a fixed number of lanes whatever the vector width, and folded into
// doubles every kFold elements: every instruction set gets the same result. One array a sum, since
// an array of arrays keeps the compiler from vectorising.
constexpr int64_t kFold = 1024;
template <class R>
struct Lanes {
  static constexpr int64_t W = 64 / int64_t(sizeof(R));
  R gg[W] = {}, dd[W] = {}, aa[W] = {}, gd[W] = {}, ga[W] = {}, da[W] = {}, hyper[W] = {};

  UNSTUCK_INLINE void add(int64_t l, R g, R d, R a, R difference) {
    gg[l] += g * g;
    dd[l] += d * d;
    aa[l] += a * a;
    gd[l] += g * d;
    ga[l] += g * a;
    da[l] += d * a;
    hyper[l] += g * difference;
  }
  UNSTUCK_INLINE void fold(double* sums) const {
    for (int64_t l = 0; l < W; ++l) {
      sums[kGG] += double(gg[l]);
      sums[kDD] += double(dd[l]);
      sums[kAA] += double(aa[l]);
      sums[kGD] += double(gd[l]);
      sums[kGA] += double(ga[l]);
      sums[kDA] += double(da[l]);
      sums[kHyper] += double(hyper[l]);
    }
  }
};

}  // namespace unstuck::cpu
