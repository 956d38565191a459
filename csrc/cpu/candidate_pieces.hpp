// Candidates piece by piece: a piece of noise is drawn, placed, evaluated and weighed. In few
// dimensions sixteen rows of noise lie beside each other (columns), in many each is cut into pieces
// that stay in the first-level cache (rows).
#pragma once
#include "cpu/candidate_loops.hpp"
#include "cpu/candidate_units.hpp"
#include "cpu/landscapes.hpp"

namespace unstuck::cpu {

constexpr int64_t kPiece = 512;       // coordinates of a row at a time
constexpr int64_t kMostColumn = 128;  // above, a candidate is a row

// Noise of a row, coordinates [begin, begin + n), to `eps` with room for whole groups.
inline void draw_piece(const Units& u, int64_t unit, int64_t begin, int64_t n, float* eps) {
  alignas(64) uint32_t words[kPiece];
  normals_row(u.form, u.draw.key, uint32_t(unit), begin / kNoiseGroup, n, words, eps);
}
inline void draw_column(const Units& u, int64_t tile, int64_t dim, float* eps) {
  alignas(64) uint32_t words[4 * kNoiseLanes * kNoiseLanes];
  normals_column(u.form, u.draw.key, uint32_t(tile * kNoiseLanes), dim, words, eps);
}

// The losses of the candidates of one row of noise.
template <class R>
class RowLosses {
 public:
  RowLosses(const LandscapeView& objective, const RegionView<R>& region, const Units& u)
      : parameters_(objective.parameters),
        kernels_(landscape_kernels<R>(objective.landscape)),
        region_(region),
        u_(u) {}

  // The noise is left in `row`, which is null where it is not wanted; `losses` are of all.
  void evaluate(int64_t unit, float* row, R* losses) {
    LandscapeSums sums[2] = {kernels_.start, kernels_.start};
    R first[2] = {};
    for (int64_t c = 0; c < region_.dim; c += kPiece) {
      const int64_t n = std::min(kPiece, region_.dim - c);
      float* eps = row ? row + c : local_;
      draw_piece(u_, unit, c, n, eps);
      for (int64_t s = 0; u_.has(unit, s); ++s) {
        place_row(region_, c, n, u_.sigma(region_, unit, s), eps, x_[s] + kNoiseLanes);
        kernels_.row(parameters_, x_[s] + kNoiseLanes, c, n, sums[s]);
        if (c == 0) first[s] = x_[s][kNoiseLanes];
        x_[s][kNoiseLanes - 1] = x_[s][kNoiseLanes + n - 1];
      }
    }
    for (int64_t s = 0; u_.has(unit, s); ++s)
      losses[unit * u_.share + s] =
          kernels_.finish(parameters_, sums[s], first[s], x_[s][kNoiseLanes - 1], region_.dim);
  }

 private:
  const LandscapeParameters& parameters_;
  const LandscapeKernels<R>& kernels_;
  const RegionView<R>& region_;
  const Units& u_;
  alignas(64) float local_[kPiece];
  alignas(64) R x_[2][kNoiseLanes + kPiece];  // the last coordinate of the piece before, then this
};

// The losses of the candidates of sixteen rows of noise beside each other.
template <class R>
class ColumnLosses {
 public:
  ColumnLosses(const LandscapeView& objective, const RegionView<R>& region, const Units& u)
      : parameters_(objective.parameters),
        kernels_(landscape_kernels<R>(objective.landscape)),
        region_(region),
        u_(u) {}

  // `eps` [dim, 16] is written; `losses` are of all.
  void evaluate(int64_t tile, float* eps, R* losses) {
    constexpr int64_t W = kNoiseLanes;
    draw_column(u_, tile, region_.dim, eps);
    const bool full = (tile + 1) * W * u_.share <= u_.count;
    for (int64_t s = 0; s < u_.share; ++s) {
      // Candidates beyond the last are computed too where that is simpler, and not written.
      for (int64_t l = 0; l < W; ++l)
        sigmas_[l] = region_.sigmas ? u_.sigma(region_, tile * W + l, s)
                     : s            ? -region_.sigma
                                    : region_.sigma;
      place_column(region_, sigmas_, eps, x_);
      kernels_.column(parameters_, x_, region_.dim, values_);
      R* to = losses + tile * W * u_.share + s;
      for (int64_t l = 0; l < W && (full || u_.has(tile * W + l, s)); ++l)
        to[l * u_.share] = values_[l];
    }
  }

 private:
  const LandscapeParameters& parameters_;
  const LandscapeKernels<R>& kernels_;
  const RegionView<R>& region_;
  const Units& u_;
  alignas(64) R x_[kMostColumn * kNoiseLanes], values_[kNoiseLanes], sigmas_[kNoiseLanes];
};

// The weights of a unit's candidates, and what they make of its noise where nothing is bounded.
template <class R>
struct UnitWeights {
  R a[2] = {}, sigma[2] = {}, b = 0, q = 0;
  bool any = false;

  UnitWeights() = default;
  // `weights` are of this unit and those after it.
  template <class Weight>
  UnitWeights(const RegionView<R>& region, const Units& u, const Weight* weights, int64_t unit) {
    for (int64_t s = 0; u.has(unit, s); ++s) {
      a[s] = R(weights[s]);
      if (a[s] == R(0)) continue;  // it may lie anywhere, infinitely far away too
      any = true;
      sigma[s] = u.sigma(region, unit, s);
      b += a[s] * sigma[s];
      q += a[s] * sigma[s] * sigma[s];
    }
  }
};

// Adds weighed units to one piece [begin, begin + n) of the moments; without bounds the scale is
// left out.
template <class R>
class PieceSums {
 public:
  PieceSums(const RegionView<R>& region, int64_t begin, int64_t n, R* shift, R* square)
      : region_(region), begin_(begin), n_(n), shift_(shift + begin), square_(square + begin) {}
  ~PieceSums() { flush(); }
  PieceSums(const PieceSums&) = delete;
  PieceSums& operator=(const PieceSums&) = delete;

  // Where noise stays that is drawn for the next add().
  float* next() { return local_[held_]; }
  // `eps` is the piece of a row of noise, and stays until kRowsTogether of them are added.
  void add(const UnitWeights<R>& w, const float* eps) {
    if (region_.bound == Bound::none) {
      rows_[held_] = eps;
      b_[held_] = w.b;
      q_[held_] = w.q;
      if (++held_ == kRowsTogether) flush();
      return;
    }
    for (int s = 0; s < 2; ++s) {
      if (w.a[s] == R(0)) continue;
      place_row(region_, begin_, n_, w.sigma[s], eps, x_);
      add_points(n_, x_, region_.mean + begin_, w.a[s], shift_, square_);
    }
  }

 private:
  void flush() {
    if (held_) add_noise(n_, held_, rows_, b_, q_, shift_, square_);
    held_ = 0;
  }

  const RegionView<R>& region_;
  int64_t begin_, n_;
  R *shift_, *square_;
  int held_ = 0;
  const float* rows_[kRowsTogether];
  R b_[kRowsTogether], q_[kRowsTogether];
  alignas(64) float local_[kRowsTogether][kPiece];
  alignas(64) R x_[kPiece];
};

// The moments of columns, sixteen sums a coordinate.
template <class R>
class ColumnSums {
 public:
  ColumnSums(const RegionView<R>& region, const Units& u) : region_(region), u_(u) {
    std::fill_n(shift_, region.dim * kNoiseLanes, R(0));
    std::fill_n(square_, region.dim * kNoiseLanes, R(0));
  }

  // Takes the weights of a tile, its first candidate first; whether any is not 0.
  template <class Weight>
  bool weigh(int64_t tile, const Weight* weights) {
    constexpr int64_t W = kNoiseLanes;
    if (u_.share == 2 && !region_.sigmas && (tile + 1) * W * 2 <= u_.count)
      return any_[0] = any_[1] = weigh_pairs(weights);
    any_[0] = any_[1] = false;
    for (int64_t l = 0; l < W; ++l) {
      const UnitWeights<R> w(region_, u_, weights + l * u_.share, tile * W + l);
      b_[l] = w.b;
      q_[l] = w.q;
      for (int s = 0; s < 2; ++s) {
        a_[s][l] = w.a[s];
        sigmas_[s][l] = w.sigma[s];
        any_[s] |= w.a[s] != R(0);
      }
    }
    return any_[0] || any_[1];
  }
  // Adds that tile, `eps` [dim, 16].
  void add(const float* eps) {
    if (region_.bound == Bound::none)
      return add_noise_column(region_.dim, eps, b_, q_, shift_, square_);
    for (int s = 0; s < 2; ++s) {
      if (!any_[s]) continue;
      place_column(region_, sigmas_[s], eps, x_);
      add_points_column(region_.dim, x_, region_.mean, a_[s], shift_, square_);
    }
  }
  void scale(R factor) {
    rescale(region_.dim * kNoiseLanes, factor, shift_);
    rescale(region_.dim * kNoiseLanes, factor, square_);
  }
  // Adds the sums to both moments [2, dim].
  void fold(double* moments) const {
    fold_column(region_.dim, shift_, moments);
    fold_column(region_.dim, square_, moments + region_.dim);
  }

 private:
  // Sixteen whole pairs of one step size.
  template <class Weight>
  bool weigh_pairs(const Weight* weights) {
    const R sigma = region_.sigma;
    R most = 0;
    for (int64_t l = 0; l < kNoiseLanes; ++l) {
      a_[0][l] = R(weights[2 * l]);
      a_[1][l] = R(weights[2 * l + 1]);
      sigmas_[0][l] = a_[0][l] == R(0) ? R(0) : sigma;  // see UnitWeights
      sigmas_[1][l] = a_[1][l] == R(0) ? R(0) : -sigma;
      b_[l] = a_[0][l] * sigma - a_[1][l] * sigma;
      q_[l] = a_[0][l] * sigma * sigma + a_[1][l] * sigma * sigma;
      most += magnitude(a_[0][l]) + magnitude(a_[1][l]);
    }
    return most != R(0);
  }

  const RegionView<R>& region_;
  const Units& u_;
  bool any_[2] = {};
  alignas(64) R a_[2][kNoiseLanes], sigmas_[2][kNoiseLanes], b_[kNoiseLanes], q_[kNoiseLanes];
  alignas(64) R shift_[kMostColumn * kNoiseLanes], square_[kMostColumn * kNoiseLanes];
  alignas(64) R x_[kMostColumn * kNoiseLanes];
};

}  // namespace unstuck::cpu
