// How tensors are cut into chunks, for threads and for blocks. All offsets are 64-bit.
#pragma once
#include <cstdint>

#include "core/macros.hpp"

namespace unstuck {

// Elements a chunk: 16 K floats of five arrays stay within a core's second-level cache.
constexpr int64_t kChunk = 16384;

UNSTUCK_HD constexpr uint32_t chunks_of(int64_t numel, int64_t size = kChunk) {
  return uint32_t((numel + size - 1) / size);
}
UNSTUCK_HD constexpr int64_t chunk_begin(uint32_t chunk, int64_t size = kChunk) {
  return int64_t(chunk) * size;
}
UNSTUCK_HD constexpr int64_t chunk_end(uint32_t chunk, int64_t numel, int64_t size = kChunk) {
  return chunk_begin(chunk, size) + size < numel ? chunk_begin(chunk, size) + size : numel;
}

static_assert(chunks_of(0) == 0 && chunks_of(1) == 1 && chunks_of(kChunk) == 1 &&
              chunks_of(kChunk + 1) == 2);
// beyond 2^31 and 2^32 elements
static_assert(chunks_of((int64_t(1) << 31) + 5) == (1u << 17) + 1);
static_assert(chunk_begin(chunks_of((int64_t(1) << 31) + 5) - 1) == int64_t(1) << 31);
static_assert(chunk_end(1u << 17, (int64_t(1) << 31) + 5) == (int64_t(1) << 31) + 5);
static_assert(chunk_begin(chunks_of((int64_t(1) << 40) + 1) - 1) == int64_t(1) << 40);

}  // namespace unstuck
