// Shuffles, votes and what lanes see of each other.
#include <stdexcept>

#include "core/gpu.hpp"
#include "selftest.hpp"

namespace selftest {
namespace {

enum class Kind { kIndex, kUp, kDown, kXor };

// Lanes outside `mask` stay away, as a divergent branch does.
template <class T>
__global__ void shuffle_kernel(Kind kind, const T* values, const int* offsets, T* out,
                               unsigned mask, int width) {
  const unsigned i = threadIdx.x;
  if ((mask >> (i % 32) & 1u) == 0) return;
  const T value = values[i];
  const int offset = offsets[i];
  switch (kind) {
    case Kind::kIndex:
      out[i] = __shfl_sync(mask, value, offset, width);
      break;
    case Kind::kUp:
      out[i] = __shfl_up_sync(mask, value, offset, width);
      break;
    case Kind::kDown:
      out[i] = __shfl_down_sync(mask, value, offset, width);
      break;
    case Kind::kXor:
      out[i] = __shfl_xor_sync(mask, value, offset, width);
      break;
  }
}

// The lanes in `split` and the others vote apart, in two branches.
__global__ void vote_kernel(const int* predicates, unsigned* out, unsigned split) {
  const unsigned i = threadIdx.x;
  unsigned* mine = out + 3 * i;
  if (split >> (i % 32) & 1u) {
    mine[0] = __ballot_sync(split, predicates[i]);
    mine[1] = static_cast<unsigned>(__any_sync(split, predicates[i]));
    mine[2] = static_cast<unsigned>(__all_sync(split, predicates[i]));
  } else {
    mine[0] = __ballot_sync(~split, predicates[i]);
    mine[1] = static_cast<unsigned>(__any_sync(~split, predicates[i]));
    mine[2] = static_cast<unsigned>(__all_sync(~split, predicates[i]));
  }
}

__global__ void active_kernel(unsigned* out, int first) {
  out[threadIdx.x] = 0;
  if (static_cast<int>(threadIdx.x) < first) out[threadIdx.x] = __activemask();
}

// Each lane passes its number to the next one through shared memory.
template <bool kSynchronise>
__global__ void handover_kernel(int* out) {
  __shared__ int cells[32];
  cells[(threadIdx.x + 1) % 32] = static_cast<int>(threadIdx.x);
  if (kSynchronise) __syncwarp();
  out[threadIdx.x] = cells[threadIdx.x];
}

template <class T>
void shuffle_as(Kind kind, std::uintptr_t values, std::uintptr_t offsets, std::uintptr_t out,
                int threads, unsigned mask, int width) {
  GPU_LAUNCH(shuffle_kernel<T>, 1, threads, 0, nullptr, kind, pointer<const T>(values),
             pointer<const int>(offsets), pointer<T>(out), mask, width);
}

}  // namespace

void shuffle(const std::string& kind, const std::string& dtype, std::uintptr_t values,
             std::uintptr_t offsets, std::uintptr_t out, int threads, unsigned mask, int width) {
  const Kind which = kind == "index"  ? Kind::kIndex
                     : kind == "up"   ? Kind::kUp
                     : kind == "down" ? Kind::kDown
                                      : Kind::kXor;
  const auto run = [&](auto as) { as(which, values, offsets, out, threads, mask, width); };
  if (dtype == "int32") return run(shuffle_as<int>);
  if (dtype == "uint32") return run(shuffle_as<unsigned>);
  if (dtype == "int64") return run(shuffle_as<long long>);
  if (dtype == "uint64") return run(shuffle_as<unsigned long>);
  if (dtype == "float32") return run(shuffle_as<float>);
  if (dtype == "float64") return run(shuffle_as<double>);
  throw std::invalid_argument(dtype);
}

void vote(std::uintptr_t predicates, std::uintptr_t out, int threads, unsigned split) {
  GPU_LAUNCH(vote_kernel, 1, threads, 0, nullptr, pointer<const int>(predicates),
             pointer<unsigned>(out), split);
}

void active_lanes(std::uintptr_t out, int first) {
  GPU_LAUNCH(active_kernel, 1, 32, 0, nullptr, pointer<unsigned>(out), first);
}

void warp_handover(std::uintptr_t out, bool synchronise) {
  const auto kernel = synchronise ? handover_kernel<true> : handover_kernel<false>;
  GPU_LAUNCH(kernel, 1, 32, 0, nullptr, pointer<int>(out));
}

}  // namespace selftest
