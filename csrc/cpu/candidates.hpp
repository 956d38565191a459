// Candidates around a point, evaluated and weighed without being stored.
#pragma once
#include <string>
#include <vector>

#include "candidate_terms.hpp"
#include "core/dlpack.hpp"
#include "cpu/landscapes.hpp"
#include "math/softmax.hpp"

namespace unstuck::cpu {

// Memory that is kept between calls: the noise of the last one, as far as it is small.
struct CandidateScratch {
  static constexpr int64_t kMostNoise = int64_t(1) << 20;  // normals
  std::vector<float> noise;
  DrawView drawn{};
  int64_t units = -1, dim = -1;  // what `noise` holds
  std::vector<double> partials;
  std::vector<double> weights;
  std::vector<OnlineSoftmax> found;  // of the threads of a pass, and their noise and sums
  std::vector<float> rows;
  std::vector<char> sums;

  // Whether the noise of a draw is still here.
  bool holds(const DrawView& draw, int64_t wanted_units, int64_t wanted_dim) const;
  // Room for the noise of a draw that is about to be made; null where it is too much.
  float* room(const DrawView& draw, int64_t wanted_units, int64_t wanted_dim, int64_t numbers);
};

template <class R>
void candidate_losses(const LandscapeView& objective, const RegionView<R>& region,
                      const DrawView& draw, int64_t count, R* losses, CandidateScratch& scratch,
                      int threads);

// shift = sum a_i (x_i - mean), square = sum a_i (x_i - mean)^2; weights of 0 are left out.
template <class R, class Weight>
void candidate_moments(const RegionView<R>& region, const DrawView& draw, const Weight* weights,
                       int64_t count, R* shift, R* square, CandidateScratch& scratch, int threads);

// Whether losses and moments under weights of a given temperature come from one pass over the
// noise, which is a row of noise and two of sums a thread.
constexpr int64_t kMostPass = int64_t(1) << 18;
inline bool one_pass(int64_t dim) { return dim <= kMostPass; }

// Losses, and the moments under softmax(-beta L); returns the effective sample size.
template <class R>
double candidate_softmax(const LandscapeView& objective, const RegionView<R>& region,
                         const DrawView& draw, int64_t count, double beta, R* losses, R* shift,
                         R* square, CandidateScratch& scratch, int threads);

// Candidates first, ..., first + count - 1 [count, dim].
template <class R>
void candidate_sample(const RegionView<R>& region, const DrawView& draw, int64_t first,
                      int64_t count, R* out, int threads);

// The values of a landscape at points [count, dim], and its gradients where there is room for them.
template <class R>
void landscape_values(const LandscapeView& objective, const R* points, int64_t count, int64_t dim,
                      R* values, R* gradients, int threads);

// What bind_candidates.hpp calls.
struct CandidateBackend {
  static constexpr int32_t kDeviceType = dlpack::kCPU;
  static constexpr int kLandscapes = unstuck::kLandscapes;
  using Scratch = CandidateScratch;

  static int place(int64_t threads);  // no more than is sane
  static int64_t workspace_size(int64_t, int64_t, bool) { return 0; }
  static void set_workspace(Scratch&, double*, int64_t) {}
  static std::vector<std::string> noise_forms();
  static void words(const NoiseKey& key, int64_t first, int64_t count, int64_t dim, double* out,
                    const std::string& form, int threads);

  template <class R>
  static void losses(const LandscapeView& o, const RegionView<R>& region, const DrawView& draw,
                     int64_t count, R* out, Scratch& scratch, int threads) {
    candidate_losses(o, region, draw, count, out, scratch, threads);
  }
  template <class R>
  static void moments(const RegionView<R>& region, const DrawView& draw, const R* weights,
                      int64_t count, R* shift, R* square, Scratch& scratch, int threads) {
    candidate_moments(region, draw, weights, count, shift, square, scratch, threads);
  }
  template <class R>
  static double softmax(const LandscapeView& o, const RegionView<R>& region, const DrawView& draw,
                        int64_t count, double beta, R* out, R* shift, R* square, Scratch& scratch,
                        int threads) {
    return candidate_softmax(o, region, draw, count, beta, out, shift, square, scratch, threads);
  }
  template <class R>
  static void sample(const RegionView<R>& region, const DrawView& draw, int64_t first,
                     int64_t count, R* out, int threads) {
    candidate_sample(region, draw, first, count, out, threads);
  }
  template <class R>
  static void values(const LandscapeView& o, const R* points, int64_t count, int64_t dim, R* out,
                     Scratch&, int threads) {
    landscape_values<R>(o, points, count, dim, out, nullptr, threads);
  }
  template <class R>
  static void gradients(const LandscapeView& o, const R* points, int64_t count, int64_t dim, R* out,
                        R* gradients, Scratch&, int threads) {
    landscape_values(o, points, count, dim, out, gradients, threads);
  }
};

}  // namespace unstuck::cpu
