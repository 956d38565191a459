// Atomics and fences. One thread runs at a time, so every access is atomic as it stands; what they
// add is a point where the scheduler may let other threads go first.
#pragma once
#include "cuda_emulator/block.hpp"

namespace cuda_emulator {

template <class T, class Change>
T atomically(T* address, Change change) {
  block.give_way();
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace cuda_emulator

// CUDA has each for exactly these types.
#define CUDA_EMULATOR_ATOMIC(name, T, expression)                                            \
  inline T name(T* address, T value) {                                                       \
    return cuda_emulator::atomically(address,                                                \
                                     [value](T old) { return static_cast<T>(expression); }); \
  }
#define CUDA_EMULATOR_ATOMIC_INT(name, expression) \
  CUDA_EMULATOR_ATOMIC(name, int, expression)      \
  CUDA_EMULATOR_ATOMIC(name, unsigned, expression)
#define CUDA_EMULATOR_ATOMIC_ULL(name, expression) \
  CUDA_EMULATOR_ATOMIC_INT(name, expression)       \
  CUDA_EMULATOR_ATOMIC(name, unsigned long long, expression)

// Through unsigned numbers, because a GPU's integers wrap around.
CUDA_EMULATOR_ATOMIC(atomicAdd, int, static_cast<unsigned>(old) + static_cast<unsigned>(value))
CUDA_EMULATOR_ATOMIC(atomicSub, int, static_cast<unsigned>(old) - static_cast<unsigned>(value))
CUDA_EMULATOR_ATOMIC(atomicAdd, unsigned, old + value)
CUDA_EMULATOR_ATOMIC(atomicSub, unsigned, old - value)
CUDA_EMULATOR_ATOMIC(atomicAdd, unsigned long long, old + value)
CUDA_EMULATOR_ATOMIC(atomicAdd, float, old + value)
CUDA_EMULATOR_ATOMIC(atomicAdd, double, old + value)
CUDA_EMULATOR_ATOMIC_ULL(atomicMin, value < old ? value : old)
CUDA_EMULATOR_ATOMIC_ULL(atomicMax, value > old ? value : old)
CUDA_EMULATOR_ATOMIC(atomicMin, long long, value < old ? value : old)
CUDA_EMULATOR_ATOMIC(atomicMax, long long, value > old ? value : old)
CUDA_EMULATOR_ATOMIC_ULL(atomicAnd, old& value)
CUDA_EMULATOR_ATOMIC_ULL(atomicOr, old | value)
CUDA_EMULATOR_ATOMIC_ULL(atomicXor, old ^ value)
CUDA_EMULATOR_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
CUDA_EMULATOR_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

#undef CUDA_EMULATOR_ATOMIC_ULL
#undef CUDA_EMULATOR_ATOMIC_INT
#undef CUDA_EMULATOR_ATOMIC

#define CUDA_EMULATOR_EXCHANGE(T)                                            \
  inline T atomicExch(T* address, T value) {                                 \
    return cuda_emulator::atomically(address, [value](T) { return value; }); \
  }
CUDA_EMULATOR_EXCHANGE(int)
CUDA_EMULATOR_EXCHANGE(unsigned)
CUDA_EMULATOR_EXCHANGE(unsigned long long)
CUDA_EMULATOR_EXCHANGE(float)
#undef CUDA_EMULATOR_EXCHANGE

#define CUDA_EMULATOR_COMPARE_AND_SWAP(T)                                                   \
  inline T atomicCAS(T* address, T expected, T value) {                                     \
    return cuda_emulator::atomically(address,                                               \
                                     [=](T old) { return old == expected ? value : old; }); \
  }
CUDA_EMULATOR_COMPARE_AND_SWAP(int)
CUDA_EMULATOR_COMPARE_AND_SWAP(unsigned)
CUDA_EMULATOR_COMPARE_AND_SWAP(unsigned short)
CUDA_EMULATOR_COMPARE_AND_SWAP(unsigned long long)
#undef CUDA_EMULATOR_COMPARE_AND_SWAP

inline void __threadfence_block() { cuda_emulator::block.give_way(); }
inline void __threadfence() { cuda_emulator::block.give_way(); }
inline void __threadfence_system() { cuda_emulator::block.give_way(); }
inline void __nanosleep(unsigned) { cuda_emulator::block.give_way(); }

[[noreturn]] inline void __trap() { cuda_emulator::block.fail({"__trap", "", 0}, "called"); }
