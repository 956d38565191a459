// Candidates of a two-layer net on the CPU: sixteen beside each other, so that one row of data
// meets the weights of all of them at once. Noise, weights and activations stay in the cache.
#include "cpu/net_candidates.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.hpp"
#include "cpu/candidate_loops.hpp"
#include "cpu/lane_losses.hpp"
#include "cpu/noise.hpp"
#include "math/mlp.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t W = kNoiseLanes;
constexpr int kTogether = 4;  // rows of data

// What one thread works in, for one tile of sixteen candidates.
template <class R>
struct Memory {
  std::vector<uint32_t> words;
  std::vector<float> noise;
  std::vector<R> weights, outputs;  // [dim, 16], [C, kTogether, 16]
};

template <class R>
struct TileJob {
  const NetData* net;
  const R* weights;  // [dim, 16]
  R* outputs;        // [C, kTogether, 16]
  double* losses;    // [16]
};

// The outputs of sixteen nets for kRows rows from `first` on.
template <int kRows, class R>
UNSTUCK_INLINE void forward(const TileJob<R>& job, int64_t first) {
  const NetData& net = *job.net;
  const int64_t F = net.features, H = net.hidden, C = net.outputs;
  const R *w1 = job.weights, *b1 = w1 + H * F * W, *w2 = b1 + H * W, *b2 = w2 + C * H * W;
  const R* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = static_cast<const R*>(net.x) + (first + r) * net.stride;
  for (int64_t c = 0; c < C; ++c)
    for (int r = 0; r < kRows; ++r)
      std::copy_n(b2 + c * W, W, job.outputs + (c * kTogether + r) * W);
  alignas(64) R active[kTogether * W];
  for (int64_t h = 0; h < H; ++h) {
    multiply_lanes<kRows>(w1 + h * F * W, b1 + h * W, F, rows, active);
#pragma omp simd
    for (int64_t i = 0; i < kRows * W; ++i) active[i] = relu(active[i]);
    for (int64_t c = 0; c < C; ++c) {
      const R* w = w2 + (c * H + h) * W;
      for (int r = 0; r < kRows; ++r) {
        R* out = job.outputs + (c * kTogether + r) * W;
#pragma omp simd
        for (int64_t l = 0; l < W; ++l) out[l] += w[l] * active[r * W + l];
      }
    }
  }
}

// Adds the cross-entropies of a row, whose outputs are [C, 16] with kTogether x 16 between classes.
template <class R>
UNSTUCK_INLINE void cross_entropy(const R* z, int64_t outputs, int64_t label, double* losses) {
  R top[W], sum[W];
  for (int64_t l = 0; l < W; ++l) top[l] = z[l];
  for (int64_t c = 1; c < outputs; ++c)
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) {
      const R x = z[c * kTogether * W + l];
      top[l] = x > top[l] ? x : top[l];
    }
  for (int64_t l = 0; l < W; ++l) sum[l] = 0;
  for (int64_t c = 0; c < outputs; ++c)
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) {
      const R x = z[c * kTogether * W + l] - top[l];
      sum[l] += exp_negative(x) + (x - x);  // NaN stays
    }
  const bool known = uint64_t(label) < uint64_t(outputs);  // a class that does not exist: no loss
  for (int64_t l = 0; l < W; ++l)
    losses[l] +=
        known ? double(top[l]) - double(z[label * kTogether * W + l]) + std::log(double(sum[l]))
              : std::nan("");
}

template <class R>
UNSTUCK_INLINE void tile_losses(const TileJob<R>& job) {
  const NetData& net = *job.net;
  BceSums<R> sums;
  for (int64_t l = 0; l < W; ++l) job.losses[l] = 0;
  for (int64_t first = 0; first < net.n;) {
    const int64_t rows = net.n - first >= kTogether ? kTogether : 1;
    if (rows == kTogether)
      forward<kTogether>(job, first);
    else
      forward<1>(job, first);
    for (int64_t r = 0; r < rows; ++r) {
      const R* z = job.outputs + r * W;
      if (net.cross_entropy)
        cross_entropy(z, net.outputs, static_cast<const int64_t*>(net.y)[first + r], job.losses);
      else
        sums.add(z, static_cast<const R*>(net.y)[first + r], job.losses);
    }
    first += rows;
  }
  if (!net.cross_entropy) sums.fold(job.losses);
}

UNSTUCK_CLONES void tile(const TileJob<float>& job) { tile_losses(job); }
UNSTUCK_CLONES void tile(const TileJob<double>& job) { tile_losses(job); }

}  // namespace

template <class R>
void net_candidates(const NetData& net, const RegionView<R>& region, const DrawView& draw,
                    int64_t count, R* losses, int threads) {
  const int64_t share = draw.antithetic ? 2 : 1, units = (count + share - 1) / share;
  const int64_t tiles = (units + W - 1) / W;
  const int64_t padded = (region.dim + kNoiseGroup - 1) / kNoiseGroup * kNoiseGroup;
  const NoiseForm form = best_noise_form();
  parallel_for(tiles, count * region.dim * std::min<int64_t>(net.n, 64), threads, [&](int64_t t) {
    thread_local Memory<R> memory;  // kept between calls
    memory.words.resize(size_t(4 * W * W));
    memory.noise.resize(size_t(padded * W));
    memory.weights.resize(size_t(padded * W));
    memory.outputs.resize(size_t(net.outputs * kTogether * W));
    normals_column(form, draw.key, uint32_t(t * W), region.dim, memory.words.data(),
                   memory.noise.data());
    for (int64_t s = 0; s < share; ++s) {
      R sigmas[W];
      const auto candidate = [&](int64_t l) { return (t * W + l) * share + s; };
      for (int64_t l = 0; l < W; ++l) {
        const int64_t i = candidate(l);
        const R size = i >= count ? R(0) : region.sigmas ? region.sigmas[i] : region.sigma;
        sigmas[l] = s ? -size : size;
      }
      place_column(region, sigmas, memory.noise.data(), memory.weights.data());
      double sums[W];
      tile(TileJob<R>{&net, memory.weights.data(), memory.outputs.data(), sums});
      for (int64_t l = 0; l < W && candidate(l) < count; ++l)
        losses[candidate(l)] = R(sums[l] / double(net.n));
    }
  });
}

template void net_candidates(const NetData&, const RegionView<float>&, const DrawView&, int64_t,
                             float*, int);
template void net_candidates(const NetData&, const RegionView<double>&, const DrawView&, int64_t,
                             double*, int);

}  // namespace unstuck::cpu
