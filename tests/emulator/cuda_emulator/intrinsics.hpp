// Device functions that the C++ library lacks. The approximate ones (__expf, ...) are exact here;
// tolerances must allow for what CUDA documents.
#pragma once
#include <math.h>  // with the overloads for float in the global namespace, as under nvcc

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "cuda_emulator/block.hpp"
#include "cuda_emulator/vector_types.hpp"

namespace cuda_emulator {

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast changes the size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// A GPU stops at a vector access that is not aligned to its size; x86-64 often does not.
template <class T>
T* aligned(T* pointer, const char* operation) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) != 0) {
    block.fail({operation, "", 0}, "address is not aligned to " + std::to_string(alignof(T)));
  }
  return pointer;
}

}  // namespace cuda_emulator

// --- the same bits as another type ---

inline unsigned __float_as_uint(float x) { return cuda_emulator::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return cuda_emulator::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return cuda_emulator::bit_cast<float>(x); }
inline float __int_as_float(int x) { return cuda_emulator::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_emulator::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_emulator::bit_cast<double>(x); }

// --- integers ---

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
  return reversed;
}

inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(x) * y) >> 32);
}
inline int __mulhi(int x, int y) {
  return static_cast<int>((static_cast<std::int64_t>(x) * y) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>((static_cast<Wide>(x) * y) >> 64);
}

// --- floating point ---

inline float __fmaf_rn(float x, float y, float z) { return ::fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return ::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return ::sqrtf(x); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return ::sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Newer C libraries declare these two; then this is their definition for this module.
inline float rsqrtf(float x) noexcept { return 1.0f / ::sqrtf(x); }
inline double rsqrt(double x) noexcept { return 1.0 / ::sqrt(x); }

// Macros, because glibc declares functions of its own by these names.
#define __expf(x) ::expf(x)
#define __exp10f(x) ::exp10f(x)
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __log10f(x) ::log10f(x)
#define __powf(x, y) ::powf(x, y)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __sincosf(x, sine, cosine) ::sincosf(x, sine, cosine)

// --- min and max, of the pairs of types that CUDA has them for ---

#define CUDA_EMULATOR_MIN_MAX(T, A, B)                                                    \
  inline T min(A a, B b) {                                                                \
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); \
  }                                                                                       \
  inline T max(A a, B b) {                                                                \
    return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); \
  }
#define CUDA_EMULATOR_MIN_MAX_INTEGER(T)                    \
  CUDA_EMULATOR_MIN_MAX(T, T, T)                            \
  CUDA_EMULATOR_MIN_MAX(unsigned T, unsigned T, unsigned T) \
  CUDA_EMULATOR_MIN_MAX(unsigned T, T, unsigned T)          \
  CUDA_EMULATOR_MIN_MAX(unsigned T, unsigned T, T)

CUDA_EMULATOR_MIN_MAX_INTEGER(int)
CUDA_EMULATOR_MIN_MAX_INTEGER(long)
CUDA_EMULATOR_MIN_MAX_INTEGER(long long)

#undef CUDA_EMULATOR_MIN_MAX_INTEGER
#undef CUDA_EMULATOR_MIN_MAX

// Of a number and a NaN, CUDA's floating-point min and max give the number.
inline float min(float a, float b) { return ::fminf(a, b); }
inline float max(float a, float b) { return ::fmaxf(a, b); }
inline double min(double a, double b) { return ::fmin(a, b); }
inline double max(double a, double b) { return ::fmax(a, b); }
inline double min(float a, double b) { return ::fmin(a, b); }
inline double max(float a, double b) { return ::fmax(a, b); }
inline double min(double a, float b) { return ::fmin(a, b); }
inline double max(double a, float b) { return ::fmax(a, b); }

// --- loads and stores with a cache hint ---

#define CUDA_EMULATOR_LOAD(name)                    \
  template <class T>                                \
  T name(const T* address) {                        \
    return *cuda_emulator::aligned(address, #name); \
  }
CUDA_EMULATOR_LOAD(__ldg)
CUDA_EMULATOR_LOAD(__ldca)
CUDA_EMULATOR_LOAD(__ldcg)
CUDA_EMULATOR_LOAD(__ldcs)
CUDA_EMULATOR_LOAD(__ldlu)
CUDA_EMULATOR_LOAD(__ldcv)
#undef CUDA_EMULATOR_LOAD

// The value's type must not take part in deducing T.
#define CUDA_EMULATOR_STORE(name)                            \
  template <class T>                                         \
  void name(T* address, const std::common_type_t<T> value) { \
    *cuda_emulator::aligned(address, #name) = value;         \
  }
CUDA_EMULATOR_STORE(__stwb)
CUDA_EMULATOR_STORE(__stcg)
CUDA_EMULATOR_STORE(__stcs)
CUDA_EMULATOR_STORE(__stwt)
#undef CUDA_EMULATOR_STORE
