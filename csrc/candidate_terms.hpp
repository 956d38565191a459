// What the binding hands to the kernels of candidates, whatever the device.
#pragma once
#include <cstdint>

#include "math/candidate.hpp"
#include "math/landscapes.hpp"
#include "math/philox.hpp"

namespace unstuck {

// x_i = bound(mean + sigma_i scale eps_i), all [dim] but sigmas [count].
template <class R>
struct RegionView {
  int64_t dim;
  const R *mean, *scale, *low, *high, *sigmas;  // null where not given
  R sigma;
  Bound bound;
};

struct DrawView {
  NoiseKey key;
  bool antithetic;
};

// A named function and its parameters.
struct LandscapeView {
  int landscape;
  LandscapeParameters parameters;
};

}  // namespace unstuck
