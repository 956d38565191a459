// Where the weights of a candidate come from.
#pragma once
#include "cpu/candidate_loops.hpp"
#include "cpu/mlp_memory.hpp"

namespace unstuck::cpu {

// Given vectors.
template <class R>
class PointSource {
 public:
  static constexpr bool kDifferentiable = true;
  explicit PointSource(const R* point) : point_(point) {}
  int together() const { return 1; }
  const R* point() const { return point_; }
  const R* weights(int, int64_t begin, int64_t) { return point_ + begin; }
  const R* biases(int, int64_t begin, int64_t) { return point_ + begin; }
  const R* base() const { return nullptr; }
  const R* along() const { return nullptr; }
  const R* change(int64_t, int64_t) { return nullptr; }
  const R* bias_change(int64_t, int64_t) { return nullptr; }
  R step(int) const { return R(0); }

 private:
  const R* point_;
};

// w - rate d.
template <class R>
class LineSource {
 public:
  static constexpr bool kDifferentiable = false;
  LineSource(const R* w, const R* d, R rate, const R* base, const R* along, MlpMemory<R>& memory)
      : w_(w), d_(d), rate_(rate), base_(base), along_(along), memory_(memory) {}
  int together() const { return 1; }
  const R* weights(int, int64_t begin, int64_t n) { return make(begin, n, memory_.weights.data()); }
  const R* biases(int, int64_t begin, int64_t n) { return make(begin, n, memory_.biases.data()); }
  const R* base() const { return base_; }
  const R* along() const { return along_; }
  const R* change(int64_t, int64_t) { return nullptr; }
  const R* bias_change(int64_t, int64_t) { return nullptr; }
  R step(int) const { return -rate_; }

 private:
  const R* make(int64_t begin, int64_t n, R* to) const {
    const R *w = w_ + begin, *d = d_ + begin;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = w[i] - rate_ * d[i];
    return to;
  }
  const R *w_, *d_;
  R rate_;
  const R *base_, *along_;
  MlpMemory<R>& memory_;
};

// Candidates of a region: one, or two of opposite noise. With a base, the region has no bounds.
template <class R>
class RegionSource {
 public:
  static constexpr bool kDifferentiable = false;
  RegionSource(const RegionView<R>& region, const DrawView& draw, int64_t unit, int together,
               const R* base, MlpMemory<R>& memory)
      : region_(region),
        draw_(draw),
        unit_(unit),
        together_(together),
        base_(base),
        memory_(memory) {}
  int together() const { return together_; }
  const R* weights(int s, int64_t begin, int64_t n) {
    return place(s, begin, n, draw(begin, n, s, weight_noise_, memory_.noise),
                 memory_.weights.data());
  }
  const R* biases(int s, int64_t begin, int64_t n) {
    return place(s, begin, n, draw(begin, n, s, bias_noise_, memory_.bias_noise),
                 memory_.biases.data());
  }
  const R* base() const { return base_; }
  const R* along() const { return nullptr; }
  const R* change(int64_t begin, int64_t n) {
    return scaled(begin, n, draw(begin, n, 0, weight_noise_, memory_.noise),
                  memory_.weights.data());
  }
  const R* bias_change(int64_t begin, int64_t n) {
    return scaled(begin, n, draw(begin, n, 0, bias_noise_, memory_.bias_noise),
                  memory_.biases.data());
  }
  R step(int s) const {
    const R size = region_.sigmas ? region_.sigmas[first() + s] : region_.sigma;
    return s ? -size : size;
  }

 private:
  int64_t first() const { return unit_ * (draw_.antithetic ? 2 : 1); }
  // The noise of these coordinates; the second of a pair finds what the first one drew.
  const float* draw(int64_t begin, int64_t n, int s, const float*& kept, Buffer<float>& room) {
    if (s == 0) {
      const int64_t group = begin / kNoiseGroup, skip = begin % kNoiseGroup;
      normals_row(form_, draw_.key, uint32_t(unit_), group, skip + n, memory_.words.data(),
                  room.data());
      kept = room.data() + skip;
    }
    return kept;
  }
  const R* place(int s, int64_t begin, int64_t n, const float* eps, R* to) const {
    place_row(region_, begin, n, step(s), eps, to);
    return to;
  }
  const R* scaled(int64_t begin, int64_t n, const float* eps, R* to) const {
    const R* scale = region_.scale ? region_.scale + begin : nullptr;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = scale ? scale[i] * R(eps[i]) : R(eps[i]);
    return to;
  }

  const RegionView<R>& region_;
  const DrawView& draw_;
  int64_t unit_;
  int together_;
  const R* base_;
  MlpMemory<R>& memory_;
  const float *weight_noise_ = nullptr, *bias_noise_ = nullptr;
  NoiseForm form_ = best_noise_form();
};

}  // namespace unstuck::cpu
