// Softmax weights are not known before the last loss, but their ratios are: every thread weighs its
// candidates relative to the best that it has seen, while their noise is still in the cache, and
// rescales its sums when a better one turns up (Milakov and Gimelshein 2018; Dao et al.,
// FlashAttention, 2022). In the end the sums of the threads are rescaled to the best of all.
#include "cpu/candidate_pass.hpp"

#include "cpu/candidate_pieces.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t W = kNoiseLanes;
constexpr int64_t kMostGroup = 8;                       // rows of noise that are weighed together
constexpr int64_t kGroupNoise = int64_t(1) << 18;       // normals that stay in the cache
constexpr int64_t kLine = 64, kMergeChunk = 16 * 1024;  // bytes, coordinates

// `size` numbers from the first of a cache line on.
template <class T, class Byte>
T* aligned(std::vector<Byte>& memory, int64_t size) {
  memory.resize(std::max(memory.size(), (size_t(size) * sizeof(T) + kLine) / sizeof(Byte)));
  const auto at = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<T*>((at + kLine - 1) / kLine * kLine);
}

// The sums of all threads, and what those of each are to be multiplied by.
OnlineSoftmax merged(const std::vector<OnlineSoftmax>& found, double beta) {
  OnlineSoftmax all;
  all.scale = beta;
  for (const OnlineSoftmax& f : found) all.merge(f);
  return all;
}
template <class R>
R share_of(const OnlineSoftmax& all, const OnlineSoftmax& part) {
  return R(part.empty ? 0 : all.weight(part.best) / all.sum);
}

// `more` has room for the sums of all threads but the first, which has `shift` and `square`.
template <class R>
void row_pass(const LandscapeView& objective, const RegionView<R>& region, const Units& u,
              R* losses, R* shift, R* square, CandidateScratch& scratch, int threads) {
  const int64_t dim = region.dim, padded = rounded_up(dim, kNoiseGroup);
  const int64_t group = std::clamp(kGroupNoise / padded, int64_t(1), kMostGroup);
  const int64_t parts = int64_t(scratch.found.size());
  float* noise = aligned<float>(scratch.rows, parts * group * padded);
  R* more = aligned<R>(scratch.sums, (parts - 1) * 2 * padded);
  const auto sums_of = [&](int64_t part, R*& first, R*& second) {
    first = part ? more + (part - 1) * 2 * padded : shift;
    second = part ? first + padded : square;
  };
  split(u.units, u.count * dim, threads, [&](int64_t begin, int64_t end, int part) {
    RowLosses<R> row(objective, region, u);
    float* eps = noise + part * group * padded;
    R *to, *to_square;
    sums_of(part, to, to_square);
    std::fill_n(to, dim, R(0));
    std::fill_n(to_square, dim, R(0));
    OnlineSoftmax found = scratch.found[size_t(part)];
    double weights[2 * kMostGroup];
    for (int64_t unit = begin; unit < end; unit += group) {
      const int64_t units = std::min(group, end - unit), first = unit * u.share;
      for (int64_t k = 0; k < units; ++k) row.evaluate(unit + k, eps + k * padded, losses);
      const int64_t n = std::min(units * u.share, u.count - first);
      const R factor = R(softmax_weights(n, losses + first, weights, found));
      if (factor != R(1)) {
        rescale(dim, factor, to);
        rescale(dim, factor, to_square);
      }
      UnitWeights<R> w[kMostGroup];
      for (int64_t k = 0; k < units; ++k)
        w[k] = UnitWeights<R>(region, u, weights + k * u.share, unit + k);
      for (int64_t c = 0; c < dim; c += kPiece) {
        PieceSums<R> sums(region, c, std::min(kPiece, dim - c), to, to_square);
        for (int64_t k = 0; k < units; ++k)
          if (w[k].any) sums.add(w[k], eps + k * padded + c);
      }
    }
    scratch.found[size_t(part)] = found;
  });
  const OnlineSoftmax all = merged(scratch.found, scratch.found[0].scale);
  const int64_t chunks = (dim + kMergeChunk - 1) / kMergeChunk;
  split(chunks, chunks * kMergeChunk, threads, [&](int64_t begin, int64_t end, int) {
    const int64_t c = begin * kMergeChunk, n = std::min(end * kMergeChunk, dim) - c;
    for (int64_t part = 0; part < parts; ++part) {
      const R factor = share_of<R>(all, scratch.found[size_t(part)]);
      R *from, *from_square;
      sums_of(part, from, from_square);
      if (part == 0) {
        rescale(n, factor, shift + c);
        rescale(n, factor, square + c);
      } else if (factor != R(0)) {
        add_scaled(n, factor, from + c, shift + c);
        add_scaled(n, factor, from_square + c, square + c);
      }
    }
  });
}

template <class R>
void column_pass(const LandscapeView& objective, const RegionView<R>& region, const Units& u,
                 R* losses, R* shift, R* square, CandidateScratch& scratch, int threads) {
  const int64_t dim = region.dim, tiles = (u.units + W - 1) / W;
  scratch.partials.assign(scratch.found.size() * 2 * size_t(dim), 0.0);
  split(tiles, u.count * dim, threads, [&](int64_t begin, int64_t end, int part) {
    ColumnLosses<R> column(objective, region, u);
    ColumnSums<R> sums(region, u);
    OnlineSoftmax found = scratch.found[size_t(part)];
    alignas(64) float eps[kMostColumn * W];
    alignas(64) double weights[2 * W];
    for (int64_t tile = begin; tile < end; ++tile) {
      column.evaluate(tile, eps, losses);
      const int64_t first = tile * W * u.share, n = std::min(W * u.share, u.count - first);
      const R factor = R(softmax_weights(n, losses + first, weights, found));
      if (factor != R(1)) sums.scale(factor);
      if (sums.weigh(tile, weights)) sums.add(eps);
    }
    sums.fold(scratch.partials.data() + size_t(part) * 2 * size_t(dim));
    scratch.found[size_t(part)] = found;
  });
  const OnlineSoftmax all = merged(scratch.found, scratch.found[0].scale);
  std::fill_n(shift, dim, R(0));
  std::fill_n(square, dim, R(0));
  for (size_t part = 0; part < scratch.found.size(); ++part) {
    const R factor = share_of<R>(all, scratch.found[part]);
    const double* from = scratch.partials.data() + part * 2 * size_t(dim);
    for (int64_t c = 0; c < dim && factor != R(0); ++c) {
      shift[c] += factor * R(from[c]);
      square[c] += factor * R(from[dim + c]);
    }
  }
}

}  // namespace

template <class R>
double candidate_pass(const LandscapeView& objective, const RegionView<R>& region,
                      const DrawView& draw, int64_t count, double beta, R* losses, R* shift,
                      R* square, CandidateScratch& scratch, int threads) {
  const Units u(draw, count);
  const bool columns = region.dim <= kMostColumn;
  const int64_t pieces = columns ? (u.units + W - 1) / W : u.units;
  OnlineSoftmax none;
  none.scale = beta;
  scratch.found.assign(size_t(parts_of(pieces, count * region.dim, threads)), none);
  (columns ? column_pass<R> : row_pass<R>)(objective, region, u, losses, shift, square, scratch,
                                           threads);
  if (region.bound == Bound::none && region.scale)
    rescale_each(region.dim, region.scale, shift, square);
  return merged(scratch.found, beta).effective_size();
}

template double candidate_pass(const LandscapeView&, const RegionView<float>&, const DrawView&,
                               int64_t, double, float*, float*, float*, CandidateScratch&, int);
template double candidate_pass(const LandscapeView&, const RegionView<double>&, const DrawView&,
                               int64_t, double, double*, double*, double*, CandidateScratch&, int);

}  // namespace unstuck::cpu
