// What the binding hands to attention search, whatever the device.
#pragma once
#include <cstdint>
#include <variant>

#include "candidate_terms.hpp"
#include "objective_terms.hpp"

namespace unstuck {

using ObjectiveView = std::variant<LandscapeView, Regression, NetData>;

template <class R>
struct AttentionState {
  R *mean, *path, *scale;  // [dim]
  double sigma, beta;
};

struct AttentionReport {
  int64_t done = 0;    // iterations; fewer than wanted when one of them had nothing to go by
  int64_t finite = 0;  // losses of the last one
  double ess = 0;      // of the last one
  double best;         // loss
  bool improved = false;
};

}  // namespace unstuck
