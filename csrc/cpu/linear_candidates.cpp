// Candidates of the regressions on the CPU. With e = scale eps a candidate is w = mean + sigma e,
// so
//
//   r = X mean - y, q = X e:  norm(X w - y)^2 = r.r + 2 sigma r.q + sigma^2 q.q
//
// and both of an antithetic pair, or any sigma, come from one product X e. It is made of blocks of
// rows and panels of sixteen e beside each other, both of which stay in the cache.
#include "cpu/linear_candidates.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.hpp"
#include "cpu/lane_losses.hpp"
#include "cpu/noise.hpp"
#include "cpu/rows.hpp"
#include "math/trials.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t W = kNoiseLanes;
constexpr int kTogether = 4;                       // rows of data
constexpr int64_t kPanel = int64_t(1) << 20;       // numbers of noise at a time
constexpr int64_t kBlock = 65536, kMostRows = 64;  // numbers and rows of a block of data
constexpr int64_t kMostChunks = 256;               // parts of the data with sums of their own

// A draw in units, the candidates that share one e; `sigmas` [share, tiles x 16].
template <class R>
struct Panel {
  int64_t tiles, dim;
  std::vector<R> e;                 // [tiles, dim, 16]
  std::vector<double> mean_e, e_e;  // [tiles x 16]: what the noise adds to norm(w)^2
};

template <class R>
struct DrawJob {
  const RegionView<R>* region;
  const float* noise;  // [dim, 16]
  R* e;
  double *mean_e, *e_e;
};
template <class R>
UNSTUCK_INLINE void scale_noise(const DrawJob<R>& job) {
  const RegionView<R>& region = *job.region;
  double mean_e[W] = {}, e_e[W] = {};
  for (int64_t c = 0; c < region.dim; ++c) {
    const R scale = region.scale ? region.scale[c] : R(1);
    const double mean = double(region.mean[c]);
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) {
      const R e = scale * R(job.noise[c * W + l]);
      job.e[c * W + l] = e;
      mean_e[l] += mean * double(e);
      e_e[l] += double(e) * double(e);
    }
  }
  std::copy_n(mean_e, W, job.mean_e);
  std::copy_n(e_e, W, job.e_e);
}

template <class R>
struct ChunkJob {
  const Regression* objective;
  const R *mean, *panel, *sigmas;
  int64_t tiles, share, first, rows;
  double *residual, *out;  // r.r; [tiles, 2, 16]: r.q and q.q, or the losses of both signs
};

// What kRows rows of one tile add: `base` is X mean - y, or X mean for logistic regression.
template <int kRows, class R>
UNSTUCK_INLINE void least_squares_rows(const R* q, const R* base, R (&rq)[W], R (&qq)[W]) {
  for (int r = 0; r < kRows; ++r)
#pragma omp simd
    for (int64_t l = 0; l < W; ++l) {
      rq[l] += base[r] * q[r * W + l];
      qq[l] += q[r * W + l] * q[r * W + l];
    }
}

template <int kRows, class R>
UNSTUCK_INLINE void multiply(const Matrix<R>& x, int64_t first, const R* e, R* q) {
  const R* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = x.row(first + r);
  const R zero[W] = {};
  multiply_lanes<kRows>(e, zero, x.columns, rows, q);
}

template <class R>
UNSTUCK_INLINE void chunk_losses(const ChunkJob<R>& job) {
  const Regression& o = *job.objective;
  const Matrix<R> x{static_cast<const R*>(o.x), o.n, o.dim, o.stride};
  const R* y = static_cast<const R*>(o.y);
  const int64_t step = std::clamp<int64_t>(kBlock / o.dim / kTogether * kTogether, 4, kMostRows);
  std::fill_n(job.out, job.tiles * 2 * W, 0.0);
  *job.residual = 0;
  double products[kMostRows];
  R base[kMostRows];
  alignas(64) R q[kTogether * W], z[W];
  for (int64_t first = job.first; first < job.first + job.rows; first += step) {
    const int64_t rows = std::min(step, job.first + job.rows - first);
    dot_block<1>(x, first, rows, &job.mean, products);
    for (int64_t i = 0; i < rows; ++i) {
      const double r = o.logistic ? products[i] : products[i] - double(y[first + i]);
      base[i] = R(r);
      *job.residual += r * r;
    }
    for (int64_t t = 0; t < job.tiles; ++t) {
      const R* e = job.panel + t * o.dim * W;
      double* out = job.out + t * 2 * W;
      R rq[W] = {}, qq[W] = {};
      BceSums<R> sums[2];
      for (int64_t i = 0; i < rows;) {
        const int together = rows - i >= kTogether ? kTogether : 1;
        if (together == kTogether)
          multiply<kTogether>(x, first + i, e, q);
        else
          multiply<1>(x, first + i, e, q);
        if (o.logistic) {
          for (int r = 0; r < together; ++r)
            for (int64_t s = 0; s < job.share; ++s) {
              const R* sigma = job.sigmas + (s * job.tiles + t) * W;
#pragma omp simd
              for (int64_t l = 0; l < W; ++l) z[l] = base[i + r] + sigma[l] * q[r * W + l];
              sums[s].add(z, y[first + i + r], out + s * W);
            }
        } else if (together == kTogether) {
          least_squares_rows<kTogether>(q, base + i, rq, qq);
        } else {
          least_squares_rows<1>(q, base + i, rq, qq);
        }
        i += together;
      }
      if (o.logistic)
        for (int64_t s = 0; s < job.share; ++s) sums[s].fold(out + s * W);
      else
        for (int64_t l = 0; l < W; ++l) {
          out[l] += double(rq[l]);
          out[W + l] += double(qq[l]);
        }
    }
  }
}

UNSTUCK_CLONES void draw(const DrawJob<float>& job) { scale_noise(job); }
UNSTUCK_CLONES void draw(const DrawJob<double>& job) { scale_noise(job); }
UNSTUCK_CLONES void chunk(const ChunkJob<float>& job) { chunk_losses(job); }
UNSTUCK_CLONES void chunk(const ChunkJob<double>& job) { chunk_losses(job); }

template <class R>
void draw_panel(Panel<R>& panel, const RegionView<R>& region, const NoiseKey& key, int64_t tile,
                int threads) {
  const int64_t padded = (region.dim + kNoiseGroup - 1) / kNoiseGroup * kNoiseGroup;
  const NoiseForm form = best_noise_form();
  parallel_for(panel.tiles, 8 * panel.tiles * W * region.dim, threads, [&](int64_t t) {
    thread_local std::vector<uint32_t> words(size_t(4 * W * W));
    thread_local std::vector<float> noise;
    noise.resize(size_t(padded * W));
    normals_column(form, key, uint32_t((tile + t) * W), region.dim, words.data(), noise.data());
    draw(DrawJob<R>{&region, noise.data(), panel.e.data() + t * region.dim * W,
                    &panel.mean_e[size_t(t * W)], &panel.e_e[size_t(t * W)]});
  });
}

}  // namespace

template <class R>
void linear_candidates(const Regression& o, const RegionView<R>& region, const DrawView& drawn,
                       int64_t count, R* losses, int threads) {
  const int64_t share = drawn.antithetic ? 2 : 1, units = (count + share - 1) / share;
  const int64_t all = (units + W - 1) / W;
  const int64_t most = std::clamp<int64_t>(kPanel / (o.dim * W), 1, std::max<int64_t>(all, 1));
  const int64_t least = std::clamp<int64_t>(kBlock / o.dim, 4, kMostRows);
  const int64_t chunks = std::clamp<int64_t>(o.n / least, 1, kMostChunks);
  Panel<R> panel{most, o.dim, std::vector<R>(size_t(most * o.dim * W)),
                 std::vector<double>(size_t(most * W)), std::vector<double>(size_t(most * W))};
  std::vector<double> partials(size_t(chunks * most * 2 * W)),
      residuals(static_cast<size_t>(chunks));
  std::vector<R> sigmas(size_t(2 * most * W));
  double mean_square = 0;
  for (int64_t c = 0; c < o.dim; ++c)
    mean_square += double(region.mean[c]) * double(region.mean[c]);
  for (int64_t tile = 0; tile < all; tile += most) {
    panel.tiles = std::min(most, all - tile);
    draw_panel(panel, region, drawn.key, tile, threads);
    const auto candidate = [&](int64_t u, int64_t s) { return (tile * W + u) * share + s; };
    for (int64_t s = 0; s < share; ++s)
      for (int64_t u = 0; u < panel.tiles * W; ++u) {
        const int64_t i = candidate(u, s);
        const R size = i >= count ? R(0) : region.sigmas ? region.sigmas[i] : region.sigma;
        sigmas[size_t(s * panel.tiles * W + u)] = s ? -size : size;
      }
    parallel_for(chunks, o.n * o.dim * panel.tiles * W, threads, [&](int64_t c) {
      const int64_t first = o.n * c / chunks, last = o.n * (c + 1) / chunks;
      chunk(ChunkJob<R>{&o, region.mean, panel.e.data(), sigmas.data(), panel.tiles, share, first,
                        last - first, &residuals[size_t(c)],
                        &partials[size_t(c * panel.tiles * 2 * W)]});
    });
    double residual = 0;
    for (double part : residuals) residual += part;
    for (int64_t u = 0; u < panel.tiles * W; ++u) {
      double sums[2] = {0, 0};
      for (int64_t c = 0; c < chunks; ++c)
        for (int k = 0; k < 2; ++k)
          sums[k] += partials[size_t(((c * panel.tiles + u / W) * 2 + k) * W + u % W)];
      for (int64_t s = 0; s < share && candidate(u, s) < count; ++s) {
        const double sigma = double(sigmas[size_t(s * panel.tiles * W + u)]), n = double(o.n);
        const Parabola point{mean_square, -panel.mean_e[size_t(u)], panel.e_e[size_t(u)]};
        const Parabola fit{residual, -sums[0], sums[1]};
        losses[candidate(u, s)] =
            R(o.logistic ? sums[s] / n
                         : trapped_loss(fit.at(sigma), point.at(sigma), n, o.lam, o.kappa));
      }
    }
  }
}

template void linear_candidates(const Regression&, const RegionView<float>&, const DrawView&,
                                int64_t, float*, int);
template void linear_candidates(const Regression&, const RegionView<double>&, const DrawView&,
                                int64_t, double*, int);

}  // namespace unstuck::cpu
