// The one parallel loop of the CPU kernels: tensors of all sizes are cut into chunks, and one
// region runs over all of them.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <vector>

#include "core/chunk.hpp"

namespace unstuck {

struct Chunk {
  uint32_t tensor;
  int64_t offset, length;
};

// Below this many elements a second thread brings less than it can cost. Measured, one thread and
// two: 65536 elements 26 and 22 us, 131072 40 and 31 us, 1048576 187 and 130 us; but two wait for
// the slower of them, which on a busy machine may not even be running.
constexpr int64_t kParallelGrain = 131072;

inline void cut(std::vector<Chunk>& chunks, uint32_t tensor, int64_t numel) {
  for (uint32_t c = 0; c < chunks_of(numel); ++c)
    chunks.push_back({tensor, chunk_begin(c), chunk_end(c, numel) - chunk_begin(c)});
}

// The first exception of a parallel region: one that leaves a thread ends the process.
class Failure {
 public:
  template <class Body>
  void catch_from(const Body& body) noexcept {
    try {
      body();
    } catch (...) {
      if (!taken_.test_and_set()) error_ = std::current_exception();
    }
  }
  // After the region.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  std::exception_ptr error_;
};

// body(i) for i in [0, n). Chunks are handed out as threads become free; every body writes its own
// memory, so the result does not depend on who ran what.
template <class Body>
void parallel_for(int64_t n, int64_t elements, int threads, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && n > 1 && elements >= kParallelGrain) {
    Failure failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < n; ++i) failure.catch_from([&] { body(i); });
    failure.rethrow();
    return;
  }
#endif
  (void)elements;
  (void)threads;
  for (int64_t i = 0; i < n; ++i) body(i);
}

}  // namespace unstuck
