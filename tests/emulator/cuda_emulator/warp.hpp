// Barriers, shuffles and votes.
//
// Undefined on a GPU and an error here: a mask without the caller, lanes of a mask that call
// different operations, a barrier that not every thread of the block reaches. Undefined and
// garbage here: a shuffle that reads a lane which takes no part.
#pragma once
#include <cstdint>
#include <cstring>

#include "cuda_emulator/block.hpp"

// Default arguments that name the line of the call.
#define CUDA_EMULATOR_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// --- the block ---

inline void __syncthreads(CUDA_EMULATOR_HERE) {
  cuda_emulator::block.meet_block({"__syncthreads", file, line}, 0);
}

inline int __syncthreads_count(int predicate, CUDA_EMULATOR_HERE) {
  return static_cast<int>(
      cuda_emulator::block.meet_block({"__syncthreads_count", file, line}, predicate != 0));
}

inline int __syncthreads_or(int predicate, CUDA_EMULATOR_HERE) {
  return cuda_emulator::block.meet_block({"__syncthreads_or", file, line}, predicate != 0) != 0;
}

inline int __syncthreads_and(int predicate, CUDA_EMULATOR_HERE) {
  return cuda_emulator::block.meet_block({"__syncthreads_and", file, line}, predicate == 0) == 0;
}

// --- the warp ---

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_EMULATOR_HERE) {
  cuda_emulator::Block& block = cuda_emulator::block;
  const cuda_emulator::Site site{"__syncwarp", file, line};
  if (mask == 0) block.fail(site, "the mask is 0");
  block.meet_warp(site, mask, 0, cuda_emulator::Block::kVote);
}

namespace cuda_emulator {

inline unsigned vote(const Site& site, unsigned mask, bool predicate) {
  if (mask == 0) block.fail(site, "the mask is 0");
  return static_cast<unsigned>(block.meet_warp(site, mask, predicate, Block::kVote));
}

enum class Shuffle { kIndex, kUp, kDown, kXor };

// The lane that `lane` reads from; itself where the source is outside its segment of `width`.
inline unsigned shuffle_source(Shuffle kind, unsigned lane, unsigned offset, unsigned width) {
  const unsigned first = lane & ~(width - 1), end = first + width;
  switch (kind) {
    case Shuffle::kIndex:
      return first + (offset & (width - 1));
    case Shuffle::kUp:
      return offset <= lane - first ? lane - offset : lane;
    case Shuffle::kDown:
      return offset < end - lane ? lane + offset : lane;
    case Shuffle::kXor:
      return (lane ^ offset) < end ? lane ^ offset : lane;
  }
  return lane;
}

template <class T>
T shuffle(const Site& site, Shuffle kind, unsigned mask, T value, unsigned offset, int width) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 and 8 bytes");
  if (mask == 0) block.fail(site, "the mask is 0");
  if (width < 1 || width > warpSize || (width & (width - 1)) != 0) {
    block.fail(site, "width " + std::to_string(width) + " is not a power of two up to 32");
  }
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const unsigned source =
      shuffle_source(kind, block.current().lane(), offset, static_cast<unsigned>(width));
  bits = block.meet_warp(site, mask, bits, source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_emulator

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_EMULATOR_HERE) {
  return cuda_emulator::vote({"__ballot_sync", file, line}, mask, predicate != 0);
}

inline int __any_sync(unsigned mask, int predicate, CUDA_EMULATOR_HERE) {
  return cuda_emulator::vote({"__any_sync", file, line}, mask, predicate != 0) != 0;
}

inline int __all_sync(unsigned mask, int predicate, CUDA_EMULATOR_HERE) {
  return cuda_emulator::vote({"__all_sync", file, line}, mask, predicate == 0) == 0;
}

// The lanes of the warp that get to this line before any of them goes on: as converged as a warp
// can be. A GPU may return fewer.
inline unsigned __activemask(CUDA_EMULATOR_HERE) {
  const cuda_emulator::Site site{"__activemask", file, line};
  return static_cast<unsigned>(
      cuda_emulator::block.meet_warp(site, 0, 1, cuda_emulator::Block::kVote));
}

// CUDA has these for exactly these types; smaller ones are promoted.
#define CUDA_EMULATOR_SHUFFLES(T)                                                                  \
  inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUDA_EMULATOR_HERE) {     \
    return cuda_emulator::shuffle({"__shfl_sync", file, line}, cuda_emulator::Shuffle::kIndex,     \
                                  mask, value, static_cast<unsigned>(lane), width);                \
  }                                                                                                \
  inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,                  \
                          CUDA_EMULATOR_HERE) {                                                    \
    return cuda_emulator::shuffle({"__shfl_up_sync", file, line}, cuda_emulator::Shuffle::kUp,     \
                                  mask, value, delta, width);                                      \
  }                                                                                                \
  inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,                \
                            CUDA_EMULATOR_HERE) {                                                  \
    return cuda_emulator::shuffle({"__shfl_down_sync", file, line}, cuda_emulator::Shuffle::kDown, \
                                  mask, value, delta, width);                                      \
  }                                                                                                \
  inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,                      \
                           CUDA_EMULATOR_HERE) {                                                   \
    return cuda_emulator::shuffle({"__shfl_xor_sync", file, line}, cuda_emulator::Shuffle::kXor,   \
                                  mask, value, static_cast<unsigned>(lanes), width);               \
  }

CUDA_EMULATOR_SHUFFLES(int)
CUDA_EMULATOR_SHUFFLES(unsigned int)
CUDA_EMULATOR_SHUFFLES(long)
CUDA_EMULATOR_SHUFFLES(unsigned long)
CUDA_EMULATOR_SHUFFLES(long long)
CUDA_EMULATOR_SHUFFLES(unsigned long long)
CUDA_EMULATOR_SHUFFLES(float)
CUDA_EMULATOR_SHUFFLES(double)

#undef CUDA_EMULATOR_SHUFFLES
#undef CUDA_EMULATOR_HERE
