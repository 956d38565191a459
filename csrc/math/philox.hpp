// Philox4x32 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC 2011) and
// how noise is laid out over it.
//
//   counter = (block, candidate, iteration, stream), key = (seed, seed >> 32)
//   coordinate c is word (c % 64) / 16 of block 16 (c / 64) + c % 16
//
// so that sixteen lanes, one block each, write sixteen neighbours with every word.
#pragma once
#include <cstdint>

#include "core/macros.hpp"

namespace unstuck {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;
constexpr int kNoiseLanes = 16;
constexpr int64_t kNoiseGroup = 4 * kNoiseLanes;  // coordinates that sixteen blocks make

// All of a counter and a key but for block and candidate.
struct NoiseKey {
  uint32_t key0, key1, iteration, stream;
  int rounds;
};

struct PhiloxWords {
  uint32_t word[4];
};

UNSTUCK_HD PhiloxWords philox(uint32_t block, uint32_t candidate, const NoiseKey& noise) {
  uint32_t a = block, b = candidate, c = noise.iteration, d = noise.stream;
  uint32_t k0 = noise.key0, k1 = noise.key1;
  for (int r = 0; r < noise.rounds; ++r) {
    const uint64_t p = uint64_t(kPhiloxM0) * a, q = uint64_t(kPhiloxM1) * c;
    a = uint32_t(q >> 32) ^ b ^ k0;
    b = uint32_t(q);
    c = uint32_t(p >> 32) ^ d ^ k1;
    d = uint32_t(p);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return {{a, b, c, d}};
}

}  // namespace unstuck
