// Every atomic: each thread applies it once to the same number and keeps what it found there.
#include <stdexcept>

#include "core/gpu.hpp"
#include "selftest.hpp"

namespace selftest {
namespace {

enum class Op { kAdd, kSub, kMin, kMax, kAnd, kOr, kXor, kExch, kCas, kInc, kDec };

Op parse(const std::string& name) {
  const char* names[] = {"add", "sub",  "min", "max", "and", "or",
                         "xor", "exch", "cas", "inc", "dec"};
  for (int i = 0; i < 11; ++i) {
    if (name == names[i]) return static_cast<Op>(i);
  }
  throw std::invalid_argument(name);
}

// The swap of kCas happens if the number is still the thread's own index.
__device__ int apply(Op op, int* target, int value) {
  switch (op) {
    case Op::kAdd:
      return atomicAdd(target, value);
    case Op::kSub:
      return atomicSub(target, value);
    case Op::kMin:
      return atomicMin(target, value);
    case Op::kMax:
      return atomicMax(target, value);
    case Op::kAnd:
      return atomicAnd(target, value);
    case Op::kOr:
      return atomicOr(target, value);
    case Op::kXor:
      return atomicXor(target, value);
    case Op::kExch:
      return atomicExch(target, value);
    case Op::kCas:
      return atomicCAS(target, static_cast<int>(threadIdx.x), value);
    default:
      return 0;
  }
}

__device__ unsigned apply(Op op, unsigned* target, unsigned value) {
  switch (op) {
    case Op::kAdd:
      return atomicAdd(target, value);
    case Op::kSub:
      return atomicSub(target, value);
    case Op::kMin:
      return atomicMin(target, value);
    case Op::kMax:
      return atomicMax(target, value);
    case Op::kAnd:
      return atomicAnd(target, value);
    case Op::kOr:
      return atomicOr(target, value);
    case Op::kXor:
      return atomicXor(target, value);
    case Op::kExch:
      return atomicExch(target, value);
    case Op::kCas:
      return atomicCAS(target, threadIdx.x, value);
    case Op::kInc:
      return atomicInc(target, value);
    case Op::kDec:
      return atomicDec(target, value);
  }
  return 0;
}

__device__ unsigned long long apply(Op op, unsigned long long* target, unsigned long long value) {
  switch (op) {
    case Op::kAdd:
      return atomicAdd(target, value);
    case Op::kMin:
      return atomicMin(target, value);
    case Op::kMax:
      return atomicMax(target, value);
    case Op::kAnd:
      return atomicAnd(target, value);
    case Op::kOr:
      return atomicOr(target, value);
    case Op::kXor:
      return atomicXor(target, value);
    case Op::kExch:
      return atomicExch(target, value);
    case Op::kCas:
      return atomicCAS(target, static_cast<unsigned long long>(threadIdx.x), value);
    default:
      return 0;
  }
}

__device__ long long apply(Op op, long long* target, long long value) {
  return op == Op::kMin ? atomicMin(target, value) : atomicMax(target, value);
}

template <class T>
__global__ void atomic_kernel(Op op, T* target, const T* values, T* old) {
  old[threadIdx.x] = apply(op, target, values[threadIdx.x]);
}

template <class T>
__global__ void add_kernel(T* target, const T* values) {
  atomicAdd(target, values[threadIdx.x]);
}

// Counts without an atomic, behind a lock that only lanes of different warps compete for.
__global__ void lock_kernel(int* lock, int* counter) {
  if (threadIdx.x % 32 != 0) return;
  while (atomicCAS(lock, 0, 1) != 0) {
  }
  const int seen = *counter;
  __threadfence();
  *counter = seen + 1;
  __threadfence();
  atomicExch(lock, 0);
}

template <class T>
void atomic(const std::string& name, std::uintptr_t target, std::uintptr_t values,
            std::uintptr_t old, int threads) {
  GPU_LAUNCH(atomic_kernel<T>, 1, threads, 0, nullptr, parse(name), pointer<T>(target),
             pointer<const T>(values), pointer<T>(old));
}

}  // namespace

void atomic_32(const std::string& name, bool is_signed, std::uintptr_t target,
               std::uintptr_t values, std::uintptr_t old, int threads) {
  is_signed ? atomic<int>(name, target, values, old, threads)
            : atomic<unsigned>(name, target, values, old, threads);
}

void atomic_64(const std::string& name, bool is_signed, std::uintptr_t target,
               std::uintptr_t values, std::uintptr_t old, int threads) {
  is_signed ? atomic<long long>(name, target, values, old, threads)
            : atomic<unsigned long long>(name, target, values, old, threads);
}

void atomic_float(const std::string& dtype, std::uintptr_t target, std::uintptr_t values,
                  int threads) {
  if (dtype == "float32") {
    GPU_LAUNCH(add_kernel<float>, 1, threads, 0, nullptr, pointer<float>(target),
               pointer<const float>(values));
  } else {
    GPU_LAUNCH(add_kernel<double>, 1, threads, 0, nullptr, pointer<double>(target),
               pointer<const double>(values));
  }
}

void locked_increments(std::uintptr_t lock, std::uintptr_t counter, int blocks, int threads) {
  GPU_LAUNCH(lock_kernel, blocks, threads, 0, nullptr, pointer<int>(lock), pointer<int>(counter));
}

}  // namespace selftest
