#include "cpu/half.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define UNSTUCK_F16C 1
#endif

namespace unstuck::cpu {

namespace {

void widen_portably(const float16* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
}
void narrow_portably(const float* from, float16* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = narrow<float16>(from[i]);
}

#if UNSTUCK_F16C
__attribute__((target("avx,f16c"))) void widen_f16c(const float16* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
  for (; i < n; ++i) to[i] = widen(from[i]);
}
__attribute__((target("avx,f16c"))) void narrow_f16c(const float* from, float16* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i*)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
  for (; i < n; ++i) to[i] = narrow<float16>(from[i]);
}
bool has_f16c() {
  static const bool yes = __builtin_cpu_supports("avx2");  // every AVX2 processor has F16C
  return yes;
}
#endif

}  // namespace

void widen_all(const float16* from, float* to, int64_t n) {
#if UNSTUCK_F16C
  if (has_f16c()) return widen_f16c(from, to, n);
#endif
  widen_portably(from, to, n);
}
void narrow_all(const float* from, float16* to, int64_t n) {
#if UNSTUCK_F16C
  if (has_f16c()) return narrow_f16c(from, to, n);
#endif
  narrow_portably(from, to, n);
}

}  // namespace unstuck::cpu
