// How candidates are shared out: over threads, and over the rows of noise that they come from.
#pragma once
#include <algorithm>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "candidate_terms.hpp"
#include "core/parallel.hpp"
#include "cpu/noise.hpp"

namespace unstuck::cpu {

// Numbers below which one thread is faster. Measured, one thread and two, 1024 candidates of 10
// coordinates: 14.8 and 8.8 us.
constexpr int64_t kGrain = 8192;

inline int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// How many threads share n pieces of work on this many numbers.
inline int parts_of(int64_t n, int64_t numbers, int threads) {
#ifdef _OPENMP
  if (numbers >= kGrain) return int(std::max<int64_t>(1, std::min<int64_t>(threads, n)));
#endif
  (void)n;
  (void)numbers;
  (void)threads;
  return 1;
}

// body(begin, end, part) for parts_of() parts of [0, n), the same parts for the same number of
// threads.
template <class Body>
void split(int64_t n, int64_t numbers, int threads, const Body& body) {
#ifdef _OPENMP
  const int parts = parts_of(n, numbers, threads);
  if (parts > 1) {
    Failure failure;
#pragma omp parallel num_threads(parts)
    {
      const int64_t t = omp_get_thread_num(), all = omp_get_num_threads();
      failure.catch_from([&] { body(n * t / all, n * (t + 1) / all, int(t)); });
    }
    failure.rethrow();
    return;
  }
#else
  (void)numbers;
  (void)threads;
#endif
  body(0, n, 0);
}

// A draw in units: the candidates that share one row of noise.
struct Units {
  DrawView draw;
  int64_t count, share, units;
  NoiseForm form = best_noise_form();

  Units(const DrawView& d, int64_t n)
      : draw(d), count(n), share(d.antithetic ? 2 : 1), units((n + share - 1) / share) {}
  bool has(int64_t unit, int64_t s) const { return s < share && unit * share + s < count; }

  template <class R>
  R sigma(const RegionView<R>& region, int64_t unit, int64_t s) const {
    if (!has(unit, s)) return R(0);
    const R size = region.sigmas ? region.sigmas[unit * share + s] : region.sigma;
    return s ? -size : size;
  }
};

}  // namespace unstuck::cpu
