// Where the weights of a candidate come from, on the device. A source says of a coordinate, and of
// its noise, what the weight is there.
#pragma once
#include "cuda/candidate_points.hpp"

namespace unstuck::cuda {

// Given vectors.
template <class R>
struct PointWeights {
  static constexpr bool kNoise = false, kPairs = false;
  const R* points;
  int64_t dim;

  struct At {
    const R* point;
    __device__ R weight(int64_t c, float) const { return point[c]; }
  };
  __device__ At at(int64_t candidate) const { return {points + candidate * dim}; }
};

// w - rate d.
template <class R>
struct LineWeights {
  static constexpr bool kNoise = false, kPairs = false;
  const R *w, *d, *rates;

  struct At {
    const R *w, *d;
    R rate;
    __device__ R weight(int64_t c, float) const { return w[c] - rate * d[c]; }
  };
  __device__ At at(int64_t candidate) const { return {w, d, rates[candidate]}; }
};

// Candidates of a region.
template <class R>
struct RegionWeights {
  static constexpr bool kNoise = true, kPairs = false;
  RegionView<R> region;
  DrawView draw;

  struct At {
    const RegionView<R>& region;
    R sigma;
    bool opposite;
    uint32_t unit;
    __device__ R weight(int64_t c, float eps) const {
      Coordinate<R> here;
      here.load(region, c);
      return here.place(region, sigma, R(opposite ? -eps : eps));
    }
  };
  __device__ At at(int64_t candidate) const {
    return {region, sigma_of(region, candidate), draw.antithetic && candidate % 2,
            uint32_t(draw.antithetic ? candidate / 2 : candidate)};
  }
};

// What a candidate or a pair of them differs by from the mean, but for its size and sign: what is
// linear in it is worked out once for both.
template <class R>
struct ChangeWeights {
  static constexpr bool kNoise = true, kPairs = true;
  RegionView<R> region;
  DrawView draw;

  struct At {
    const R* scale;
    uint32_t unit;
    __device__ R weight(int64_t c, float eps) const { return scale ? scale[c] * R(eps) : R(eps); }
  };
  __device__ At at(int64_t unit) const { return {region.scale, uint32_t(unit)}; }
  __host__ __device__ int share() const { return draw.antithetic ? 2 : 1; }
  __device__ R step(int64_t candidate) const {
    const R sigma = sigma_of(region, candidate);
    return draw.antithetic && candidate % 2 ? -sigma : sigma;
  }
};

// The noise of the weights [first + u in, first + (u + 1) in) of units u < `units`: of two groups
// of coordinates at a time, a ring of which the second group is drawn when the first is used up.
struct NoiseRing {
  static constexpr int kUnits = 64, kSlots = 2 * int(kNoiseGroup);
  float eps[kUnits][kSlots + 1];

  __device__ float at(int unit, int64_t c) const { return eps[unit][c % kSlots]; }

  // Draws what the 64 columns from `start` on want, `start` a multiple of 64.
  __device__ void draw(const NoiseKey& key, uint32_t candidate, int64_t first, int64_t in,
                       int units, int64_t start) {
    if (in <= kSlots) {  // one run of coordinates
      if (start == 0) run(key, candidate, first, in, units);
      return;
    }
    constexpr int L = kNoiseLanes;
    const int groups = start == 0 ? 2 : 1;  // of a unit: the first stage may begin within one
    for (int i = int(threadIdx.x); i < groups * units * L; i += int(blockDim.x)) {
      const int u = i / L % units, before = i / (units * L);
      const int64_t begin = first + u * in + start, last = begin + kNoiseGroup - 1;
      const int64_t group = last / kNoiseGroup - before;
      const bool there = group * kNoiseGroup < first + (u + 1) * in;
      if (!there || (before && begin % kNoiseGroup == 0)) continue;
      float drawn[4];
      draw_normals(uint32_t(group * L + i % L), candidate, key, drawn);
      const int slot = int(group % 2) * int(kNoiseGroup) + i % L;
#pragma unroll
      for (int j = 0; j < 4; ++j) eps[u][slot + j * L] = drawn[j];
    }
  }

 private:
  __device__ void run(const NoiseKey& key, uint32_t candidate, int64_t first, int64_t in,
                      int units) {
    const int64_t end = first + units * in, last = blocks_of(end);
    for (int64_t b = first / kNoiseGroup * kNoiseLanes + threadIdx.x; b < last; b += blockDim.x) {
      float drawn[4];
      draw_normals(uint32_t(b), candidate, key, drawn);
      const int64_t c = first_coordinate(b);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t place = c + j * kNoiseLanes;
        if (place >= first && place < end)
          eps[int(place - first) / int(in)][place % kSlots] = drawn[j];
      }
    }
  }
};
// The noise of one coordinate.
__device__ inline float draw_one(const NoiseKey& key, uint32_t candidate, int64_t c) {
  float eps[4];
  draw_normals(block_of(c), candidate, key, eps);
  const int j = int(c % kNoiseGroup) / kNoiseLanes;
  return j < 2 ? (j ? eps[1] : eps[0]) : j == 2 ? eps[2] : eps[3];
}

}  // namespace unstuck::cuda
