// float16 <-> float in bulk, by the processor's own instructions where it has them.
#pragma once
#include <cstdint>

#include "core/half.hpp"

namespace unstuck::cpu {

void widen_all(const float16* from, float* to, int64_t n);
void narrow_all(const float* from, float16* to, int64_t n);

}  // namespace unstuck::cpu
