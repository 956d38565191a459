#include "cpu/attention.hpp"

#include <cmath>

#include "core/parallel.hpp"
#include "cpu/linear_candidates.hpp"
#include "cpu/net_candidates.hpp"
#include "math/attention.hpp"
#include "math/softmax.hpp"

namespace unstuck::cpu {

namespace {

constexpr int kLanes = 8;  // sums run beside each other, so that they can be vectorised

UNSTUCK_INLINE double total(const double (&sums)[kLanes]) {
  double sum = 0;
  for (double x : sums) sum += x;
  return sum;
}

// body(i, lane) for i in [0, n), the lanes taking turns.
template <class Body>
UNSTUCK_INLINE void lanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) body(i + lane, lane);
  for (int lane = 0; i < n; ++i, ++lane) body(i, lane);
}

template <class R>
Losses survey(const R* losses, int64_t n) {
  Losses seen;
  for (int64_t i = 0; i < n; ++i) seen.add(losses[i], i);
  return seen;
}

template <class R>
double spread(const R* losses, int64_t n, const Losses& s) {
  double sum = 0, square = 0;
  for (int64_t i = 0; i < n; ++i)
    if (is_finite(losses[i])) sum += losses[i];
  const double mean = sum / double(s.finite);
  for (int64_t i = 0; i < n; ++i)
    if (is_finite(losses[i])) square += (losses[i] - mean) * (losses[i] - mean);
  return std::sqrt(square / double(s.finite));
}

// a_i = exp(-beta (L_i - low)), their sum and that of their squares.
template <class R>
UNSTUCK_INLINE WeightSums weigh(const R* losses, int64_t n, double low, double beta, double* a) {
  double first[kLanes] = {}, second[kLanes] = {};
  lanes(n, [&](int64_t i, int lane) {
    a[i] = relative_weight(losses[i], low, beta);
    first[lane] += a[i];
    second[lane] += a[i] * a[i];
  });
  return {total(first), total(second)};
}
UNSTUCK_CLONES WeightSums weights_of(const float* losses, int64_t n, double low, double beta,
                                     double* a) {
  return weigh(losses, n, low, beta, a);
}
UNSTUCK_CLONES WeightSums weights_of(const double* losses, int64_t n, double low, double beta,
                                     double* a) {
  return weigh(losses, n, low, beta, a);
}

// Weights of the wanted effective sample size, normalised; beta is left for the next iteration.
// Returns the effective sample size, 0 when the losses do not differ.
template <class R>
double temper(const R* losses, int64_t n, const Losses& s, double share, double& beta, double* a) {
  if (!s.finite || s.low == s.high) return 0;
  if (beta == 0) beta = first_beta(spread(losses, n, s), share);
  const Tempered t = tempered(beta, share, double(s.finite),
                              [&](double b) { return weights_of(losses, n, s.low, b, a); });
  beta = t.next;
  for (int64_t i = 0; i < n; ++i) a[i] /= t.sums.first;
  return t.sums.ess();
}

// One chunk of the new path; returns the sum of its squares.
template <class R>
UNSTUCK_INLINE double move_path(int64_t n, const R* shift, const R* scale, double keep, double gain,
                                R* path) {
  double sums[kLanes] = {};
  lanes(n, [&](int64_t i, int lane) {
    path[i] = next_path(path[i], shift[i], scale[i], R(keep), R(gain));
    sums[lane] += double(path[i]) * double(path[i]);
  });
  return total(sums);
}
// One chunk of the new variances, in place of the squares, and of the mean; returns their sum.
template <class R>
UNSTUCK_INLINE double move_mean(int64_t n, const R* shift, const R* scale, double keep, double gain,
                                R* square, R* mean) {
  double sums[kLanes] = {};
  lanes(n, [&](int64_t i, int lane) {
    square[i] = next_variance(scale[i], square[i], R(keep), R(gain));
    mean[i] = next_mean(mean[i], shift[i]);
    sums[lane] += double(square[i]);
  });
  return total(sums);
}
template <class R>
UNSTUCK_INLINE void set_scale(int64_t n, const R* variance, double level, R* scale) {
  for (int64_t i = 0; i < n; ++i) scale[i] = next_scale(variance[i], level);
}
#define UNSTUCK_LOOPS(R)                                                                   \
  UNSTUCK_CLONES double path_chunk(int64_t n, const R* shift, const R* scale, double keep, \
                                   double gain, R* path) {                                 \
    return move_path(n, shift, scale, keep, gain, path);                                   \
  }                                                                                        \
  UNSTUCK_CLONES double mean_chunk(int64_t n, const R* shift, const R* scale, double keep, \
                                   double gain, R* square, R* mean) {                      \
    return move_mean(n, shift, scale, keep, gain, square, mean);                           \
  }                                                                                        \
  UNSTUCK_CLONES void scale_chunk(int64_t n, const R* variance, double level, R* scale) {  \
    set_scale(n, variance, level, scale);                                                  \
  }
UNSTUCK_LOOPS(float)
UNSTUCK_LOOPS(double)
#undef UNSTUCK_LOOPS

// body(begin, length), chunk by chunk; the sum of what they return does not depend on the threads.
template <class Body>
double chunk_sum(int64_t n, int threads, std::vector<double>& partials, const Body& body) {
  const int64_t chunks = chunks_of(n);
  partials.resize(size_t(chunks));
  parallel_for(chunks, n, threads, [&](int64_t c) {
    const int64_t begin = chunk_begin(uint32_t(c));
    partials[size_t(c)] = body(begin, chunk_end(uint32_t(c), n) - begin);
  });
  double sum = 0;
  for (double p : partials) sum += p;
  return sum;
}

template <class R>
void adapt(AttentionState<R>& s, int64_t dim, const R* shift, R* square, double ess,
           std::vector<double>& partials, int threads) {
  const AttentionRates rates(double(dim), ess);
  const double old = s.sigma, c = rates.path, h = rates.variance;
  const double norm = std::sqrt(chunk_sum(dim, threads, partials, [&](int64_t at, int64_t n) {
    return path_chunk(n, shift + at, s.scale + at, 1 - c, rates.path_gain(ess, old), s.path + at);
  }));
  const double level =
      chunk_sum(dim, threads, partials,
                [&](int64_t at, int64_t n) {
                  return mean_chunk(n, shift + at, s.scale + at, 1 - h, rates.variance_gain<R>(old),
                                    square + at, s.mean + at);
                }) /
      double(dim);
  chunk_sum(dim, threads, partials, [&](int64_t at, int64_t n) {
    scale_chunk(n, square + at, level, s.scale + at);
    return 0.0;
  });
  s.sigma = rates.next_sigma(old, norm, level);
}

template <class R>
void evaluate(const LandscapeView& o, const RegionView<R>& region, const DrawView& draw,
              int64_t count, R* losses, CandidateScratch& scratch, int threads) {
  candidate_losses(o, region, draw, count, losses, scratch, threads);
}
template <class R>
void evaluate(const Regression& o, const RegionView<R>& region, const DrawView& draw, int64_t count,
              R* losses, CandidateScratch&, int threads) {
  linear_candidates(o, region, draw, count, losses, threads);
}
template <class R>
void evaluate(const NetData& o, const RegionView<R>& region, const DrawView& draw, int64_t count,
              R* losses, CandidateScratch&, int threads) {
  net_candidates(o, region, draw, count, losses, threads);
}

}  // namespace

template <class R>
void attention_steps(const ObjectiveView& objective, const RegionView<R>& region, DrawView draw,
                     int64_t count, int64_t steps, double share, AttentionState<R>& state,
                     R* losses, R* best_x, AttentionReport& report, CandidateScratch& candidates,
                     AttentionScratch& scratch, int threads) {
  scratch.weights.resize(size_t(count));
  scratch.moments.resize(size_t(region.dim) * 2 * sizeof(R));
  R* shift = reinterpret_cast<R*>(scratch.moments.data());
  R* square = shift + region.dim;
  RegionView<R> now = region;
  const auto* landscape = std::get_if<LandscapeView>(&objective);
  for (; report.done < steps; ++draw.key.iteration) {
    now.sigma = R(state.sigma);
    // The moments under the temperature that is there come with the losses, and mostly they will
    // do.
    const bool weighed = landscape && state.beta > 0 && one_pass(region.dim);
    double ess = 0;
    if (weighed)
      ess = candidate_softmax(*landscape, now, draw, count, state.beta, losses, shift, square,
                              candidates, threads);
    else
      std::visit([&](const auto& o) { evaluate(o, now, draw, count, losses, candidates, threads); },
                 objective);
    ++report.done;
    const Losses seen = survey(losses, count);
    report.finite = seen.finite;
    if (seen.finite && seen.low < report.best) {
      report.best = seen.low;
      report.improved = true;
      candidate_sample(now, draw, seen.best, 1, best_x, 1);
    }
    if (weighed && seen.low < seen.high && fits(ess / double(seen.finite), share)) {
      state.beta = next_beta(state.beta, ess / double(seen.finite), share);
      report.ess = ess;
    } else {
      report.ess = temper(losses, count, seen, share, state.beta, scratch.weights.data());
      if (report.ess == 0) return;
      candidate_moments(now, draw, scratch.weights.data(), count, shift, square, candidates,
                        threads);
    }
    adapt(state, region.dim, shift, square, report.ess, scratch.partials, threads);
  }
}

#define UNSTUCK_NAMED(R)                                                                       \
  template void attention_steps(const ObjectiveView&, const RegionView<R>&, DrawView, int64_t, \
                                int64_t, double, AttentionState<R>&, R*, R*, AttentionReport&, \
                                CandidateScratch&, AttentionScratch&, int);
UNSTUCK_NAMED(float)
UNSTUCK_NAMED(double)
#undef UNSTUCK_NAMED

}  // namespace unstuck::cpu
