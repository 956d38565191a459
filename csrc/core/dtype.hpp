// The element types that are computed.
#pragma once
#include <cstdint>

namespace unstuck {

enum class DType : uint8_t { f32, f64, bf16, f16, other };
inline const char* name_of(DType t) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "float16", "another dtype"};
  return names[int(t)];
}
inline int64_t size_of(DType t) { return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2; }

}  // namespace unstuck
