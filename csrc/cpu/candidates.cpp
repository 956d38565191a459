// Candidates on the CPU: losses, and moments under any weights, from the noise that the losses left
// where that is at most CandidateScratch::kMostNoise, else drawn again.
#include "cpu/candidates.hpp"

#include <algorithm>
#include <stdexcept>

#include "cpu/candidate_pass.hpp"
#include "cpu/candidate_pieces.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t W = kNoiseLanes;

template <class R>
void row_losses(const LandscapeView& objective, const RegionView<R>& region, const Units& u,
                float* noise, R* losses, int threads) {
  const int64_t padded = rounded_up(region.dim, kNoiseGroup);
  split(u.units, u.count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    RowLosses<R> row(objective, region, u);
    for (int64_t unit = begin; unit < end; ++unit)
      row.evaluate(unit, noise ? noise + unit * padded : nullptr, losses);
  });
}

template <class R>
void column_losses(const LandscapeView& objective, const RegionView<R>& region, const Units& u,
                   float* noise, R* losses, int threads) {
  const int64_t tiles = (u.units + W - 1) / W, size = rounded_up(region.dim, kNoiseGroup) * W;
  split(tiles, u.count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    ColumnLosses<R> column(objective, region, u);
    alignas(64) float local[kMostColumn * W];
    for (int64_t tile = begin; tile < end; ++tile)
      column.evaluate(tile, noise ? noise + tile * size : local, losses);
  });
}

template <class R, class Weight>
void row_moments(const RegionView<R>& region, const Units& u, const Weight* weights,
                 const float* noise, R* shift, R* square, int threads) {
  const int64_t padded = rounded_up(region.dim, kNoiseGroup);
  const int64_t share = rounded_up((region.dim + threads - 1) / threads, kNoiseGroup);
  const int64_t size = std::min(kPiece, share), pieces = (region.dim + size - 1) / size;
  std::fill_n(shift, region.dim, R(0));
  std::fill_n(square, region.dim, R(0));
  split(pieces, u.count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t c = p * size, n = std::min(size, region.dim - c);
      PieceSums<R> sums(region, c, n, shift, square);
      for (int64_t unit = 0; unit < u.units; ++unit) {
        const UnitWeights<R> w(region, u, weights + unit * u.share, unit);
        if (!w.any) continue;
        const float* eps = noise ? noise + unit * padded + c : sums.next();
        if (!noise) draw_piece(u, unit, c, n, sums.next());
        sums.add(w, eps);
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
  const int parts = parts_of(tiles, u.count * dim, threads);
  scratch.partials.assign(size_t(parts) * 2 * size_t(dim), 0.0);
  split(tiles, u.count * dim, threads, [&](int64_t begin, int64_t end, int part) {
    ColumnSums<R> sums(region, u);
    alignas(64) float local[kMostColumn * W];
    for (int64_t tile = begin; tile < end; ++tile) {
      if (!sums.weigh(tile, weights + tile * W * u.share)) continue;
      if (!noise) draw_column(u, tile, dim, local);
      sums.add(noise ? noise + tile * size : local);
    }
    sums.fold(scratch.partials.data() + size_t(part) * 2 * size_t(dim));
  });
  for (int64_t i = 0; i < 2 * dim; ++i) {
    double sum = 0;
    for (int p = 0; p < parts; ++p)
      sum += scratch.partials[size_t(p) * 2 * size_t(dim) + size_t(i)];
    (i < dim ? shift[i] : square[i - dim]) = R(sum);
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
  if (region.bound == Bound::none && region.scale)
    rescale_each(region.dim, region.scale, shift, square);
}

template <class R>
double candidate_softmax(const LandscapeView& objective, const RegionView<R>& region,
                         const DrawView& draw, int64_t count, double beta, R* losses, R* shift,
                         R* square, CandidateScratch& scratch, int threads) {
  if (one_pass(region.dim))
    return candidate_pass(objective, region, draw, count, beta, losses, shift, square, scratch,
                          threads);
  candidate_losses(objective, region, draw, count, losses, scratch, threads);
  scratch.weights.resize(size_t(count));
  double* weights = scratch.weights.data();
  OnlineSoftmax found;
  found.scale = beta;
  softmax_weights(count, losses, weights, found);
  for (int64_t i = 0; i < count && found.sum > 0; ++i) weights[i] /= found.sum;
  candidate_moments(region, draw, weights, count, shift, square, scratch, threads);
  return found.effective_size();
}

template <class R>
void candidate_sample(const RegionView<R>& region, const DrawView& draw, int64_t first,
                      int64_t count, R* out, int threads) {
  const Units u(draw, first + count);
  split(count, count * region.dim, threads, [&](int64_t begin, int64_t end, int) {
    alignas(64) float eps[kPiece];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t unit = (first + i) / u.share, s = (first + i) % u.share;
      for (int64_t c = 0; c < region.dim; c += kPiece) {
        const int64_t n = std::min(kPiece, region.dim - c);
        draw_piece(u, unit, c, n, eps);
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
