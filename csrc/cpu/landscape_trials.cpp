// Learning-rate trials on the landscapes: a piece of w and d is read once for all rates of a
// thread, and no point of the line is stored.
#include <algorithm>

#include "core/parallel.hpp"
#include "cpu/landscapes.hpp"
#include "cpu/trials.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t kPiece = 512, kBefore = 16;
constexpr int64_t kRates = 8;  // that share a reading

template <class R>
struct PieceJob {
  const R *w, *d;
  int64_t begin, count;
  R rate;
  R* x;  // [count], with the coordinate before it where there is one
};
template <class R>
UNSTUCK_INLINE void place(const PieceJob<R>& job) {
  const int64_t first = job.begin > 0 ? -1 : 0;
#pragma omp simd
  for (int64_t i = first; i < job.count; ++i)
    job.x[i] = job.w[job.begin + i] - job.rate * job.d[job.begin + i];
}
UNSTUCK_CLONES void place_piece(const PieceJob<float>& job) { place(job); }
UNSTUCK_CLONES void place_piece(const PieceJob<double>& job) { place(job); }

template <class R>
std::vector<double> losses_along(const LandscapeView& objective, const Trials& t, int64_t dim,
                                 int threads) {
  const LandscapeKernels<R>& kernels = landscape_kernels<R>(objective.landscape);
  const R *w = static_cast<const R*>(t.w), *d = static_cast<const R*>(t.d);
  const R* rates = static_cast<const R*>(t.rates);
  std::vector<double> losses(static_cast<size_t>(t.count));
  parallel_for((t.count + kRates - 1) / kRates, 8 * t.count * dim, threads, [&](int64_t part) {
    const int64_t begin = part * kRates, end = std::min(t.count, begin + kRates);
    alignas(64) R memory[kBefore + kPiece];
    R* const x = memory + kBefore;
    LandscapeSums sums[kRates];
    std::fill_n(sums, kRates, kernels.start);
    for (int64_t c = 0; c < dim; c += kPiece) {
      const int64_t n = std::min(kPiece, dim - c);
      for (int64_t k = begin; k < end; ++k) {
        place_piece(PieceJob<R>{w, d, c, n, rates[k], x});
        kernels.row(objective.parameters, x, c, n, sums[k - begin]);
      }
    }
    for (int64_t k = begin; k < end; ++k) {
      const R first = w[0] - rates[k] * d[0], last = w[dim - 1] - rates[k] * d[dim - 1];
      losses[size_t(k)] =
          double(kernels.finish(objective.parameters, sums[k - begin], first, last, dim));
    }
  });
  return losses;
}

}  // namespace

void landscape_trials(const LandscapeView& objective, const Trials& t, int64_t dim, DType dtype,
                      int threads) {
  finish_trials(t, dtype,
                dtype == DType::f32 ? losses_along<float>(objective, t, dim, threads)
                                    : losses_along<double>(objective, t, dim, threads),
                dim, threads);
}

}  // namespace unstuck::cpu
