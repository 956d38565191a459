// Candidates on the CPU. In few dimensions sixteen of them lie beside each other (columns), in many
// each is drawn in pieces that stay in the first-level cache (rows). Either way a piece of noise is
// drawn, placed, evaluated and forgotten; what is kept is at most CandidateScratch::kMostNoise.
#include "cpu/candidates.hpp"

#include <algorithm>
#include <stdexcept>

#include "cpu/candidate_loops.hpp"
#include "cpu/candidate_units.hpp"
#include "cpu/landscapes.hpp"
#include "cpu/noise.hpp"
#include "math/softmax.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t W = kNoiseLanes;
constexpr int64_t kPiece = 512;       // coordinates of a row at a time
constexpr int64_t kMostColumn = 128;  // above, a candidate is a row
// One piece of a row, drawn into `noise` where that is kept.
struct Piece {
  alignas(64) uint32_t words[kPiece];
  alignas(64) float local[kPiece];

  const float* draw(const Units& u, int64_t unit, int64_t begin, int64_t n, float* keep) {
    float* eps = keep ? keep : local;
    normals_row(u.form, u.draw.key, uint32_t(unit), begin / kNoiseGroup, n, words, eps);
    return eps;
  }
};

struct Column {
  alignas(64) uint32_t words[4 * W * W];
  alignas(64) float local[kMostColumn * W];

  const float* draw(const Units& u, int64_t tile, int64_t dim, float* keep) {
    float* eps = keep ? keep : local;
    normals_column(u.form, u.draw.key, uint32_t(tile * W), dim, words, eps);
    return eps;
  }
};

template <class R>
void row_losses(const LandscapeView& objective, const RegionView<R>& region, const Units& u,
                float* noise, R* losses, int threads) {
  const LandscapeKernels<R>& kernels = landscape_kernels<R>(objective.landscape);
  const int64_t padded = rounded_up(region.dim, kNoiseGroup);
  split(u.units, u.count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    Piece piece;
    alignas(64) R x[2][W + kPiece];  // the last coordinate of the piece before, then this one
    for (int64_t unit = begin; unit < end; ++unit) {
      LandscapeSums sums[2] = {kernels.start, kernels.start};
      R first[2] = {};
      for (int64_t c = 0; c < region.dim; c += kPiece) {
        const int64_t n = std::min(kPiece, region.dim - c);
        const float* eps = piece.draw(u, unit, c, n, noise ? noise + unit * padded + c : nullptr);
        for (int64_t s = 0; u.has(unit, s); ++s) {
          place_row(region, c, n, u.sigma(region, unit, s), eps, x[s] + W);
          kernels.row(objective.parameters, x[s] + W, c, n, sums[s]);
          if (c == 0) first[s] = x[s][W];
          x[s][W - 1] = x[s][W + n - 1];
        }
      }
      for (int64_t s = 0; u.has(unit, s); ++s)
        losses[unit * u.share + s] =
            kernels.finish(objective.parameters, sums[s], first[s], x[s][W - 1], region.dim);
    }
  });
}

template <class R>
void column_losses(const LandscapeView& objective, const RegionView<R>& region, const Units& u,
                   float* noise, R* losses, int threads) {
  const LandscapeKernels<R>& kernels = landscape_kernels<R>(objective.landscape);
  const int64_t tiles = (u.units + W - 1) / W, size = rounded_up(region.dim, kNoiseGroup) * W;
  split(tiles, u.count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    Column column;
    alignas(64) R x[kMostColumn * W], values[W], sigmas[W];
    for (int64_t tile = begin; tile < end; ++tile) {
      const float* eps = column.draw(u, tile, region.dim, noise ? noise + tile * size : nullptr);
      const bool full = (tile + 1) * W * u.share <= u.count;
      for (int64_t s = 0; s < u.share; ++s) {
        // Candidates beyond the last are computed too where that is simpler, and not written.
        for (int64_t l = 0; l < W; ++l)
          sigmas[l] = region.sigmas ? u.sigma(region, tile * W + l, s)
                      : s           ? -region.sigma
                                    : region.sigma;
        place_column(region, sigmas, eps, x);
        kernels.column(objective.parameters, x, region.dim, values);
        R* to = losses + tile * W * u.share + s;
        for (int64_t l = 0; l < W && (full || u.has(tile * W + l, s)); ++l)
          to[l * u.share] = values[l];
      }
    }
  });
}

// The weights of a unit's candidates, and what they make of its noise where nothing is bounded.
template <class R>
struct UnitWeights {
  R a[2] = {}, sigma[2] = {}, b = 0, q = 0;
  bool any = false;

  template <class Weight>
  UnitWeights(const RegionView<R>& region, const Units& u, const Weight* weights, int64_t unit) {
    for (int64_t s = 0; u.has(unit, s); ++s) {
      a[s] = R(weights[unit * u.share + s]);
      if (a[s] == R(0)) continue;  // it may lie anywhere, infinitely far away too
      any = true;
      sigma[s] = u.sigma(region, unit, s);
      b += a[s] * sigma[s];
      q += a[s] * sigma[s] * sigma[s];
    }
  }
};

// The same for sixteen whole pairs of one step size; returns whether any has weight.
template <class R, class Weight>
bool pair_weights(const Weight* weights, R sigma, R (&a)[2][W], R (&sigmas)[2][W], R (&b)[W],
                  R (&q)[W]) {
  R most = 0;
  for (int64_t l = 0; l < W; ++l) {
    a[0][l] = R(weights[2 * l]);
    a[1][l] = R(weights[2 * l + 1]);
    sigmas[0][l] = sigma;
    sigmas[1][l] = -sigma;
    b[l] = a[0][l] * sigma - a[1][l] * sigma;
    q[l] = a[0][l] * sigma * sigma + a[1][l] * sigma * sigma;
    most += magnitude(a[0][l]) + magnitude(a[1][l]);
  }
  return most != R(0);
}

template <class R, class Weight>
void row_moments(const RegionView<R>& region, const Units& u, const Weight* weights,
                 const float* noise, R* shift, R* square, int threads) {
  const int64_t padded = rounded_up(region.dim, kNoiseGroup);
  const int64_t share = rounded_up((region.dim + threads - 1) / threads, kNoiseGroup);
  const int64_t size = std::min(kPiece, share), pieces = (region.dim + size - 1) / size;
  split(pieces, u.count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    Piece piece;
    alignas(64) R x[kPiece];
    for (int64_t p = begin; p < end; ++p) {
      const int64_t c = p * size, n = std::min(size, region.dim - c);
      R *to = shift + c, *to_square = square + c;
      std::fill_n(to, n, R(0));
      std::fill_n(to_square, n, R(0));
      for (int64_t unit = 0; unit < u.units; ++unit) {
        const UnitWeights<R> w(region, u, weights, unit);
        if (!w.any) continue;
        const float* eps = noise ? noise + unit * padded + c : piece.draw(u, unit, c, n, nullptr);
        if (region.bound == Bound::none) {
          add_noise(n, eps, w.b, w.q, to, to_square);
          continue;
        }
        for (int64_t s = 0; u.has(unit, s); ++s) {
          if (w.a[s] == R(0)) continue;
          place_row(region, c, n, w.sigma[s], eps, x);
          add_points(n, x, region.mean + c, w.a[s], to, to_square);
        }
      }
    }
  });
}

template <class R, class Weight>
void column_moments(const RegionView<R>& region, const Units& u, const Weight* weights,
                    const float* noise, R* shift, R* square, CandidateScratch& scratch,
                    int threads) {
  const int64_t dim = region.dim, tiles = (u.units + W - 1) / W;
  const int64_t size = rounded_up(dim, kNoiseGroup) * W;
  const size_t parts = size_t(std::min<int64_t>(threads, std::max<int64_t>(tiles, 1)));
  scratch.partials.assign(parts * 2 * size_t(dim), 0.0);
  split(tiles, u.count * dim, threads, [&](int64_t begin, int64_t end, int part) {
    Column column;
    alignas(64) R sums[2][kMostColumn * W], x[kMostColumn * W], a[2][W], sigmas[2][W], b[W], q[W];
    std::fill_n(sums[0], dim * W, R(0));
    std::fill_n(sums[1], dim * W, R(0));
    for (int64_t tile = begin; tile < end; ++tile) {
      bool any[2] = {};
      if (u.share == 2 && !region.sigmas && (tile + 1) * W * 2 <= u.count) {
        any[0] = any[1] = pair_weights(weights + tile * W * 2, region.sigma, a, sigmas, b, q);
      } else {
        for (int64_t l = 0; l < W; ++l) {
          const UnitWeights<R> w(region, u, weights, tile * W + l);
          b[l] = w.b;
          q[l] = w.q;
          for (int64_t s = 0; s < 2; ++s) {
            a[s][l] = w.a[s];
            sigmas[s][l] = w.sigma[s];
            any[s] |= w.a[s] != R(0);
          }
        }
      }
      if (!any[0] && !any[1]) continue;
      const float* eps = noise ? noise + tile * size : column.draw(u, tile, dim, nullptr);
      if (region.bound == Bound::none) {
        add_noise_column(dim, eps, b, q, sums[0], sums[1]);
        continue;
      }
      for (int64_t s = 0; s < u.share; ++s) {
        if (!any[s]) continue;
        place_column(region, sigmas[s], eps, x);
        add_points_column(dim, x, region.mean, a[s], sums[0], sums[1]);
      }
    }
    double* mine = scratch.partials.data() + size_t(part) * 2 * size_t(dim);
    for (int64_t c = 0; c < dim; ++c)
      for (int64_t l = 0; l < W; ++l) {
        mine[c] += double(sums[0][c * W + l]);
        mine[dim + c] += double(sums[1][c * W + l]);
      }
  });
  const auto total = [&](int64_t at) {
    double sum = 0;
    for (size_t p = 0; p < parts; ++p) sum += scratch.partials[p * 2 * size_t(dim) + size_t(at)];
    return R(sum);
  };
  for (int64_t c = 0; c < dim; ++c) {
    shift[c] = total(c);
    square[c] = total(dim + c);
  }
}

}  // namespace

bool CandidateScratch::holds(const DrawView& draw, int64_t wanted_units, int64_t wanted_dim) const {
  const NoiseKey &a = draw.key, &b = drawn.key;
  return units == wanted_units && dim == wanted_dim && a.key0 == b.key0 && a.key1 == b.key1 &&
         a.iteration == b.iteration && a.stream == b.stream && a.rounds == b.rounds;
}

float* CandidateScratch::room(const DrawView& draw, int64_t wanted_units, int64_t wanted_dim,
                              int64_t numbers) {
  units = -1;
  if (numbers > kMostNoise) return nullptr;
  if (int64_t(noise.size()) < numbers) noise.resize(size_t(numbers));
  drawn = draw;
  units = wanted_units;
  dim = wanted_dim;
  return noise.data();
}

template <class R>
void candidate_losses(const LandscapeView& objective, const RegionView<R>& region,
                      const DrawView& draw, int64_t count, R* losses, CandidateScratch& scratch,
                      int threads) {
  const Units u(draw, count);
  const bool columns = region.dim <= kMostColumn;
  const int64_t rows = columns ? rounded_up(u.units, W) : u.units;
  float* noise =
      scratch.room(draw, u.units, region.dim, rows * rounded_up(region.dim, kNoiseGroup));
  (columns ? column_losses<R> : row_losses<R>)(objective, region, u, noise, losses, threads);
}

template <class R, class Weight>
void candidate_moments(const RegionView<R>& region, const DrawView& draw, const Weight* weights,
                       int64_t count, R* shift, R* square, CandidateScratch& scratch, int threads) {
  const Units u(draw, count);
  const float* noise = scratch.holds(draw, u.units, region.dim) ? scratch.noise.data() : nullptr;
  if (region.dim <= kMostColumn)
    column_moments(region, u, weights, noise, shift, square, scratch, threads);
  else
    row_moments(region, u, weights, noise, shift, square, threads);
  if (region.bound != Bound::none || !region.scale) return;
  for (int64_t c = 0; c < region.dim; ++c) {
    shift[c] *= region.scale[c];
    square[c] *= region.scale[c] * region.scale[c];
  }
}

template <class R>
double candidate_softmax(const LandscapeView& objective, const RegionView<R>& region,
                         const DrawView& draw, int64_t count, double beta, R* losses, R* shift,
                         R* square, CandidateScratch& scratch, int threads) {
  candidate_losses(objective, region, draw, count, losses, scratch, threads);
  scratch.weights.resize(size_t(count));
  double* weights = scratch.weights.data();
  double sum = 0;
  const double size = softmax_weights(count, losses, beta, weights, sum);
  for (int64_t i = 0; i < count && sum > 0; ++i) weights[i] /= sum;
  candidate_moments(region, draw, weights, count, shift, square, scratch, threads);
  return size;
}

template <class R>
void candidate_sample(const RegionView<R>& region, const DrawView& draw, int64_t first,
                      int64_t count, R* out, int threads) {
  const Units u(draw, first + count);
  split(count, count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    Piece piece;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t unit = (first + i) / u.share, s = (first + i) % u.share;
      for (int64_t c = 0; c < region.dim; c += kPiece) {
        const int64_t n = std::min(kPiece, region.dim - c);
        const float* eps = piece.draw(u, unit, c, n, nullptr);
        place_row(region, c, n, u.sigma(region, unit, s), eps, out + i * region.dim + c);
      }
    }
  });
}

template <class R>
void landscape_values(const LandscapeView& objective, const R* points, int64_t count, int64_t dim,
                      R* values, R* gradients, int threads) {
  const LandscapeKernels<R>& kernels = landscape_kernels<R>(objective.landscape);
  split(count, count * dim, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const R* x = points + i * dim;
      LandscapeSums sums = kernels.start;
      for (int64_t c = 0; c < dim; c += kPiece)
        kernels.row(objective.parameters, x + c, c, std::min(kPiece, dim - c), sums);
      values[i] = kernels.finish(objective.parameters, sums, x[0], x[dim - 1], dim);
      if (gradients) kernels.gradient(objective.parameters, x, dim, sums, gradients + i * dim);
    }
  });
}

int CandidateBackend::place(int64_t threads) {
#ifdef _OPENMP  // four threads a core are more than enough
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, 4 * omp_get_num_procs())));
#else
  (void)threads;
  return 1;
#endif
}

std::vector<std::string> CandidateBackend::noise_forms() {
  const std::string names[] = {"scalar", "avx2", "avx512"};
  return {names, names + int(best_noise_form()) + 1};
}

void CandidateBackend::words(const NoiseKey& key, int64_t first, int64_t count, int64_t dim,
                             double* out, const std::string& form, int threads) {
  const auto forms = noise_forms();
  const auto found = std::find(forms.begin(), forms.end(), form);
  if (found == forms.end()) throw std::invalid_argument("form must be one of noise_forms()");
  split(count, count * dim, threads, [&](int64_t begin, int64_t end, int) {
    uint32_t words[kNoiseGroup];
    for (int64_t i = begin; i < end; ++i)
      for (int64_t c = 0; c < dim; c += kNoiseGroup) {
        noise_row(NoiseForm(found - forms.begin()), key, uint32_t(first + i), c / kNoiseGroup, 1,
                  words);
        for (int64_t k = 0; k < std::min(kNoiseGroup, dim - c); ++k)
          out[i * dim + c + k] = double(words[k]);
      }
  });
}

#define UNSTUCK_NAMED(R)                                                                         \
  template void candidate_losses(const LandscapeView&, const RegionView<R>&, const DrawView&,    \
                                 int64_t, R*, CandidateScratch&, int);                           \
  template void candidate_moments(const RegionView<R>&, const DrawView&, const R*, int64_t, R*,  \
                                  R*, CandidateScratch&, int);                                   \
  template double candidate_softmax(const LandscapeView&, const RegionView<R>&, const DrawView&, \
                                    int64_t, double, R*, R*, R*, CandidateScratch&, int);        \
  template void candidate_sample(const RegionView<R>&, const DrawView&, int64_t, int64_t, R*,    \
                                 int);                                                           \
  template void landscape_values(const LandscapeView&, const R*, int64_t, int64_t, R*, R*, int);
UNSTUCK_NAMED(float)
UNSTUCK_NAMED(double)
template void candidate_moments(const RegionView<float>&, const DrawView&, const double*, int64_t,
                                float*, float*, CandidateScratch&, int);
#undef UNSTUCK_NAMED

}  // namespace unstuck::cpu
