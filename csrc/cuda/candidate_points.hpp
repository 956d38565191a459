// Candidates on the device: a lane makes four coordinates of a candidate, or of an antithetic pair.
#pragma once
#include "candidate_terms.hpp"
#include "core/gpu.hpp"
#include "math/normal.hpp"

namespace unstuck::cuda {

// The four normals of one Philox block, sixteen coordinates apart from each other.
__device__ inline void draw_normals(uint32_t block, uint32_t unit, const NoiseKey& key,
                                    float (&eps)[4]) {
  const PhiloxWords w = philox(block, unit, key);
  box_muller(w.word[0], w.word[1], eps[0], eps[1]);
  box_muller(w.word[2], w.word[3], eps[2], eps[3]);
}

// The block that makes coordinate c, and the first coordinate that a block makes.
__host__ __device__ inline uint32_t block_of(int64_t c) {
  return uint32_t(c / kNoiseGroup * kNoiseLanes + c % kNoiseLanes);
}
__host__ __device__ inline int64_t first_coordinate(int64_t block) {
  return block / kNoiseLanes * kNoiseGroup + block % kNoiseLanes;
}
__host__ __device__ inline int64_t blocks_of(int64_t dim) {
  return (dim + kNoiseGroup - 1) / kNoiseGroup * kNoiseLanes;
}

// A coordinate that is there: c, or else the last one.
__device__ inline int64_t inside(int64_t dim, int64_t c) { return c < dim ? c : dim - 1; }

// What a region says about one coordinate.
template <class R>
struct Coordinate {
  R mean = R(0), scale = R(1), low = R(0), high = R(0);
  __device__ void load(const RegionView<R>& region, int64_t c) {
    mean = region.mean[c];
    if (region.scale) scale = region.scale[c];
    if (region.bound == Bound::none) return;
    low = region.low[c];
    high = region.high[c];
  }
  __device__ R place(const RegionView<R>& region, R sigma, R eps) const {
    return bounded(region.bound, mean + sigma * scale * eps, low, high);
  }
};
template <class R>
__device__ inline R sigma_of(const RegionView<R>& region, int64_t candidate) {
  return region.sigmas ? region.sigmas[candidate] : region.sigma;
}

// The four coordinates of one Philox block of one candidate, into its row.
template <class R>
__device__ inline void write_block(const RegionView<R>& region, const DrawView& draw,
                                   int64_t candidate, int64_t block, R* row) {
  float eps[4];
  draw_normals(uint32_t(block), uint32_t(draw.antithetic ? candidate / 2 : candidate), draw.key,
               eps);
  const R sigma = sigma_of(region, candidate);
  const bool opposite = draw.antithetic && candidate % 2;
  int64_t c = first_coordinate(block);
#pragma unroll
  for (int j = 0; j < 4; ++j, c += kNoiseLanes) {
    if (c >= region.dim) continue;
    Coordinate<R> here;
    here.load(region, c);
    row[c] = here.place(region, sigma, R(opposite ? -eps[j] : eps[j]));
  }
}

// The first of one or two, or the second, without an address that would force both into memory.
template <int N, class R>
__device__ inline R picked(const R (&x)[N], int m) {
  return N > 1 && m ? x[N - 1] : x[0];
}
template <int N, class R>
__device__ inline void replace(R (&x)[N], int m, R value) {
  x[N - 1] = N == 1 || m ? value : x[N - 1];
  if (N > 1) x[0] = m ? x[0] : value;
}
template <int N, class R>
__device__ inline R picked(const R (&x)[N][4], int m, int j) {
  return N > 1 && m ? x[N - 1][j] : x[0][j];
}
template <int N, class R>
__device__ inline void replace(R (&x)[N][4], int m, int j, R value) {
  x[N - 1][j] = N == 1 || m ? value : x[N - 1][j];
  if (N > 1) x[0][j] = m ? x[0][j] : value;
}

// Candidates [0, count) as rows of points. A row is what one draw of noise makes: one candidate, or
// two with opposite signs.
template <class R>
struct CandidatePoints {
  static constexpr int kMost = 2;
  RegionView<R> region;
  DrawView draw;
  int64_t count;
  const int* stopped;  // null, or on the device: whether nobody wants these any more

  __device__ bool wanted() const { return !stopped || !*stopped; }
  __host__ __device__ int share() const { return draw.antithetic ? 2 : 1; }
  __host__ __device__ int64_t dim() const { return region.dim; }
  __host__ __device__ int64_t rows() const { return (count + share() - 1) / share(); }
  // The points of a row: point `first(row) + m`, m < members(row).
  __host__ __device__ int64_t first(int64_t row) const { return row * share(); }
  __device__ int members(int64_t row) const {
    return draw.antithetic && 2 * row + 1 < count ? 2 : 1;
  }
  // Coordinates c, c + 16, c + 32, c + 48 of all members. Those beyond the last are numbers of no
  // use.
  __device__ void load(int64_t row, int members, int64_t c, R (&x)[kMost][4]) const {
    float eps[4];
    draw_normals(block_of(c), uint32_t(row), draw.key, eps);
    const R sigma = sigma_of(region, first(row));
    const R other = members > 1 ? sigma_of(region, first(row) + 1) : sigma;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t i = inside(region.dim, c + kNoiseLanes * j);
      const R mean = region.mean[i], scale = region.scale ? region.scale[i] : R(1);
      x[0][j] = mean + sigma * scale * R(eps[j]);
      x[1][j] = mean + other * scale * R(-eps[j]);
    }
    if (region.bound == Bound::none) return;
#pragma unroll 1
    for (int m = 0; m < members; ++m)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t i = inside(region.dim, c + kNoiseLanes * j);
        replace(x, m, j, bounded(region.bound, picked(x, m, j), region.low[i], region.high[i]));
      }
  }
};

// Points that are there, or w - rates[k] d.
template <class R>
struct StoredPoints {
  static constexpr int kMost = 1;
  const R* x;          // [count, dim], or w [dim] with a stride of 0
  const R *d, *rates;  // [dim], [count], or null
  int64_t size, count, stride;

  __device__ bool wanted() const { return true; }
  __host__ __device__ int share() const { return 1; }
  __host__ __device__ int64_t dim() const { return size; }
  __host__ __device__ int64_t rows() const { return count; }
  __host__ __device__ int64_t first(int64_t row) const { return row; }
  __device__ int members(int64_t) const { return 1; }
  __device__ void load(int64_t row, int, int64_t c, R (&out)[kMost][4]) const {
    const R* here = x + row * stride;
    const R rate = d ? rates[row] : R(0);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t i = inside(size, c + kNoiseLanes * j);
      out[0][j] = d ? here[i] - rate * d[i] : here[i];
    }
  }
};

}  // namespace unstuck::cuda
