#pragma once
#include "core/macros.hpp"

namespace unstuck {

// A scalar that may lie in a tensor on the device of the parameters.
struct Scalar {
  const void* data = nullptr;  // null: the number that stands beside it holds
  bool is_double = false;
  UNSTUCK_HD double load() const {
    return is_double ? *static_cast<const double*>(data) : double(*static_cast<const float*>(data));
  }
};

}  // namespace unstuck
