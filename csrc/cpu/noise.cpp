// Philox on the CPU. Compilers vectorise its 32 x 32 -> 64 bit products badly, so the two wide
// forms are written out; a lane of 64 bits holds one word, with bits above it that no product
// reads.
#include "cpu/noise.hpp"

#include <algorithm>

#include "math/normal.hpp"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define UNSTUCK_X86 1
#include <immintrin.h>
#if !defined(__clang__)
// g++ 12 takes the "undefined" registers of its own header for an oversight.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#else
#define UNSTUCK_X86 0
#endif

namespace unstuck::cpu {

namespace {

// Sixteen blocks of one candidate, or one block of sixteen candidates. Word j of lane l goes to
// out[j * stride + l].
struct Sixteen {
  uint32_t block, candidate;
  bool candidates;
  int64_t stride;
};

void scalar_form(const NoiseKey& noise, const Sixteen& s, uint32_t* out) {
  for (uint32_t l = 0; l < uint32_t(kNoiseLanes); ++l) {
    const PhiloxWords w =
        philox(s.block + (s.candidates ? 0 : l), s.candidate + (s.candidates ? l : 0), noise);
    for (int j = 0; j < 4; ++j) out[j * s.stride + l] = w.word[j];
  }
}

#if UNSTUCK_X86
// What is the same in all lanes is computed once: with x = (first + lane) ^ mask, the counter after
// `rounds` rounds is (a, b, hi(M0 x) ^ c, lo(M0 x)).
struct Head {
  uint32_t first, mask, a, b, c;
  int rounds;
};
inline uint32_t high(uint64_t x) { return uint32_t(x >> 32); }

Head head_of(const NoiseKey& n, const Sixteen& s) {
  const uint64_t q = uint64_t(kPhiloxM1) * n.iteration;
  if (!s.candidates)
    return {s.block, 0, high(q) ^ s.candidate ^ n.key0, uint32_t(q), n.stream ^ n.key1, 1};
  const uint64_t p = uint64_t(kPhiloxM0) * s.block;
  const uint64_t next = uint64_t(kPhiloxM1) * (high(p) ^ n.stream ^ n.key1);
  return {s.candidate,
          high(q) ^ n.key0,
          high(next) ^ uint32_t(q) ^ (n.key0 + kPhiloxW0),
          uint32_t(next),
          uint32_t(p) ^ (n.key1 + kPhiloxW1),
          2};
}

#define UNSTUCK_AVX512 __attribute__((target("avx512f"), always_inline)) inline
#define UNSTUCK_AVX2 __attribute__((target("avx2"), always_inline)) inline

struct Wide512 {
  __m512i a, b, c, d;
  // Lanes 0, 2, 4, ... from `first` on, after one round more than the head's.
  UNSTUCK_AVX512 Wide512(const Head& h, uint32_t first, uint32_t k0, uint32_t k1) {
    const __m512i even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i x = _mm512_xor_si512(_mm512_add_epi64(_mm512_set1_epi64(first), even),
                                       _mm512_set1_epi64(h.mask));
    const __m512i m = _mm512_mul_epu32(x, _mm512_set1_epi64(kPhiloxM0));
    const uint64_t p = uint64_t(kPhiloxM0) * h.a;
    b = _mm512_mul_epu32(_mm512_xor_si512(_mm512_srli_epi64(m, 32), _mm512_set1_epi64(h.c)),
                         _mm512_set1_epi64(kPhiloxM1));
    a = _mm512_xor_si512(_mm512_srli_epi64(b, 32), _mm512_set1_epi64(h.b ^ k0));
    c = _mm512_xor_si512(m, _mm512_set1_epi64(high(p) ^ k1));
    d = _mm512_set1_epi64(uint32_t(p));
  }
  UNSTUCK_AVX512 void round(__m512i k0, __m512i k1) {
    const __m512i p = _mm512_mul_epu32(a, _mm512_set1_epi64(kPhiloxM0));
    const __m512i q = _mm512_mul_epu32(c, _mm512_set1_epi64(kPhiloxM1));
    a = _mm512_ternarylogic_epi64(_mm512_srli_epi64(q, 32), b, k0, 0x96);
    c = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p, 32), d, k1, 0x96);
    b = q;
    d = p;
  }
};

__attribute__((target("avx512f"))) void avx512_form(const NoiseKey& noise, const Sixteen& s,
                                                    uint32_t* out) {
  const Head head = head_of(noise, s);
  uint32_t k0 = noise.key0 + uint32_t(head.rounds) * kPhiloxW0,
           k1 = noise.key1 + uint32_t(head.rounds) * kPhiloxW1;
  Wide512 x(head, head.first, k0, k1), y(head, head.first + 1, k0, k1);
  for (int r = head.rounds + 1; r < noise.rounds; ++r) {
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
    const __m512i wide0 = _mm512_set1_epi64(k0), wide1 = _mm512_set1_epi64(k1);
    x.round(wide0, wide1);
    y.round(wide0, wide1);
  }
  const auto store = [&](int j, __m512i l, __m512i h) __attribute__((target("avx512f"))) {
    _mm512_storeu_si512(out + j * s.stride,
                        _mm512_mask_mov_epi32(l, 0xAAAA, _mm512_slli_epi64(h, 32)));
  };
  store(0, x.a, y.a);
  store(1, x.b, y.b);
  store(2, x.c, y.c);
  store(3, x.d, y.d);
}

struct Wide256 {
  __m256i a, b, c, d;
  UNSTUCK_AVX2 Wide256(const Head& h, uint32_t first, uint32_t k0, uint32_t k1) {
    const __m256i even = _mm256_set_epi64x(6, 4, 2, 0);
    const __m256i x = _mm256_xor_si256(_mm256_add_epi64(_mm256_set1_epi64x(first), even),
                                       _mm256_set1_epi64x(h.mask));
    const __m256i m = _mm256_mul_epu32(x, _mm256_set1_epi64x(kPhiloxM0));
    const uint64_t p = uint64_t(kPhiloxM0) * h.a;
    b = _mm256_mul_epu32(_mm256_xor_si256(_mm256_srli_epi64(m, 32), _mm256_set1_epi64x(h.c)),
                         _mm256_set1_epi64x(kPhiloxM1));
    a = _mm256_xor_si256(_mm256_srli_epi64(b, 32), _mm256_set1_epi64x(h.b ^ k0));
    c = _mm256_xor_si256(m, _mm256_set1_epi64x(high(p) ^ k1));
    d = _mm256_set1_epi64x(uint32_t(p));
  }
  UNSTUCK_AVX2 void round(__m256i k0, __m256i k1) {
    const __m256i p = _mm256_mul_epu32(a, _mm256_set1_epi64x(kPhiloxM0));
    const __m256i q = _mm256_mul_epu32(c, _mm256_set1_epi64x(kPhiloxM1));
    a = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(q, 32), b), k0);
    c = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p, 32), d), k1);
    b = q;
    d = p;
  }
};

__attribute__((target("avx2"))) void avx2_form(const NoiseKey& noise, const Sixteen& s,
                                               uint32_t* out) {
  const Head head = head_of(noise, s);
  for (uint32_t half = 0; half < 2; ++half) {
    uint32_t k0 = noise.key0 + uint32_t(head.rounds) * kPhiloxW0,
             k1 = noise.key1 + uint32_t(head.rounds) * kPhiloxW1;
    Wide256 x(head, head.first + 8 * half, k0, k1), y(head, head.first + 8 * half + 1, k0, k1);
    for (int r = head.rounds + 1; r < noise.rounds; ++r) {
      k0 += kPhiloxW0;
      k1 += kPhiloxW1;
      const __m256i wide0 = _mm256_set1_epi64x(k0), wide1 = _mm256_set1_epi64x(k1);
      x.round(wide0, wide1);
      y.round(wide0, wide1);
    }
    const auto store = [&](int j, __m256i l, __m256i h) __attribute__((target("avx2"))) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j * s.stride + 8 * half),
                          _mm256_blend_epi32(l, _mm256_slli_epi64(h, 32), 0xAA));
    };
    store(0, x.a, y.a);
    store(1, x.b, y.b);
    store(2, x.c, y.c);
    store(3, x.d, y.d);
  }
}
#endif

UNSTUCK_INLINE void sixteen(NoiseForm form, const NoiseKey& noise, const Sixteen& s,
                            uint32_t* out) {
#if UNSTUCK_X86
  if (form == NoiseForm::avx512) return avx512_form(noise, s, out);
  if (form == NoiseForm::avx2) return avx2_form(noise, s, out);
#else
  (void)form;
#endif
  scalar_form(noise, s, out);
}

}  // namespace

NoiseForm best_noise_form() {
#if UNSTUCK_X86
  if (__builtin_cpu_supports("avx512f")) return NoiseForm::avx512;
  if (__builtin_cpu_supports("avx2")) return NoiseForm::avx2;
#endif
  return NoiseForm::scalar;
}

void noise_row(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t group,
               int64_t groups, uint32_t* out) {
  for (int64_t g = 0; g < groups; ++g)
    sixteen(form, noise, {uint32_t((group + g) * kNoiseLanes), candidate, false, kNoiseLanes},
            out + g * kNoiseGroup);
}

namespace entry {
// Pairs of sixteen words, one behind the other.
UNSTUCK_CLONES void pairs_row(const uint32_t* __restrict words, int64_t pairs,
                              float* __restrict out) {
  for (int64_t p = 0; p < pairs; ++p) {
    const uint32_t* w = words + p * 2 * kNoiseLanes;
    float* x = out + p * 2 * kNoiseLanes;
#pragma omp simd
    for (int64_t l = 0; l < kNoiseLanes; ++l)
      box_muller(w[l], w[kNoiseLanes + l], x[l], x[kNoiseLanes + l]);
  }
}
// Words with what stands `stride` behind them; n is a multiple of sixteen.
UNSTUCK_CLONES void pairs_column(const uint32_t* __restrict words, int64_t n, int64_t stride,
                                 float* __restrict out) {
  for (int64_t i = 0; i < n; i += kNoiseLanes) {
#pragma omp simd
    for (int64_t l = 0; l < kNoiseLanes; ++l)
      box_muller(words[i + l], words[stride + i + l], out[i + l], out[stride + i + l]);
  }
}
}  // namespace entry

void normals_row(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t group,
                 int64_t n, uint32_t* words, float* out) {
  noise_row(form, noise, candidate, group, (n + kNoiseGroup - 1) / kNoiseGroup, words);
  entry::pairs_row(words, (n + 2 * kNoiseLanes - 1) / (2 * kNoiseLanes), out);
}

void normals_column(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t n,
                    uint32_t* words, float* out) {
  constexpr int64_t kStride = kNoiseLanes * kNoiseLanes;  // from a word to the next of its block
  for (int64_t begin = 0; begin < n; begin += kNoiseGroup) {
    const int64_t left = std::min(n - begin, kNoiseGroup);
    const int64_t blocks = std::min<int64_t>(left, kNoiseLanes);
    for (int64_t b = 0; b < blocks; ++b)
      sixteen(form, noise,
              {uint32_t(begin / kNoiseGroup * kNoiseLanes + b), candidate, true, kStride},
              words + b * kNoiseLanes);
    entry::pairs_column(words, blocks * kNoiseLanes, kStride, out + begin * kNoiseLanes);
    if (left > 2 * kNoiseLanes)
      entry::pairs_column(words + 2 * kStride,
                          std::min<int64_t>(left - 2 * kNoiseLanes, kNoiseLanes) * kNoiseLanes,
                          kStride, out + begin * kNoiseLanes + 2 * kStride);
  }
}

}  // namespace unstuck::cpu
