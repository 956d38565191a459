// What bind_candidates.hpp calls on CUDA.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "cuda/backend.hpp"
#include "cuda/candidates.hpp"
#include "cuda/landscapes.hpp"
#include "cuda/noise.hpp"

namespace unstuck::cuda {

struct CandidateBackend {
  static constexpr int32_t kDeviceType = cuda::kDeviceType;
  static constexpr int kLandscapes = unstuck::kLandscapes;
  using Scratch = Workspace;

  static void* place(int64_t stream) { return reinterpret_cast<void*>(stream); }
  static std::vector<std::string> noise_forms() { return {"cuda"}; }
  static void words(const NoiseKey& key, int64_t first, int64_t count, int64_t dim, double* out,
                    const std::string& form, void* stream) {
    if (form != "cuda") throw std::invalid_argument("form must be one of noise_forms()");
    check(noise_words(key, first, count, dim, out, stream));
  }

  // The softmax pass needs most: an effective size, the weights, and what either kernel takes.
  static int64_t workspace_size(int64_t dim, int64_t count, bool antithetic) {
    return 1 + count +
           std::max({candidate_losses_workspace(dim, count, antithetic),
                     candidate_moments_workspace(dim, count, antithetic),
                     landscape_values_workspace(dim, count)});
  }
  static void set_workspace(Scratch& scratch, double* memory, int64_t size) {
    scratch = {memory, size};
  }

  template <class R>
  static void losses(const LandscapeView& o, const RegionView<R>& region, const DrawView& draw,
                     int64_t count, R* out, const Scratch& scratch, void* stream) {
    double* memory = scratch.room(candidate_losses_workspace(region.dim, count, draw.antithetic));
    check(candidate_losses(o, region, draw, count, out, memory, nullptr, stream));
  }
  template <class R>
  static void moments(const RegionView<R>& region, const DrawView& draw, const R* weights,
                      int64_t count, R* shift, R* square, const Scratch& scratch, void* stream) {
    double* memory = scratch.room(candidate_moments_workspace(region.dim, count, draw.antithetic));
    check(candidate_moments(region, draw, weights, count, shift, square, memory, stream));
  }
  // Waits for the device, since the effective sample size is a number of the host.
  template <class R>
  static double softmax(const LandscapeView& o, const RegionView<R>& region, const DrawView& draw,
                        int64_t count, double beta, R* out, R* shift, R* square,
                        const Scratch& scratch, void* stream) {
    double* ess = scratch.room(workspace_size(region.dim, count, draw.antithetic));
    R* weights = reinterpret_cast<R*>(ess + 1);
    double* memory = ess + 1 + count;
    check(candidate_losses(o, region, draw, count, out, memory, nullptr, stream));
    check(softmax_weights(count, out, beta, weights, ess, stream));
    check(candidate_moments(region, draw, weights, count, shift, square, memory, stream));
    double size = 0;
    check(read_back(ess, &size, sizeof size, stream));
    return size;
  }
  template <class R>
  static void sample(const RegionView<R>& region, const DrawView& draw, int64_t first,
                     int64_t count, R* out, void* stream) {
    check(candidate_sample(region, draw, first, count, out, stream));
  }
  template <class R>
  static void values(const LandscapeView& o, const R* points, int64_t count, int64_t dim, R* out,
                     const Scratch& scratch, void* stream) {
    double* memory = scratch.room(landscape_values_workspace(dim, count));
    check(landscape_values(o, points, count, dim, out, memory, stream));
  }
  template <class R>
  static void gradients(const LandscapeView& o, const R* points, int64_t count, int64_t dim, R* out,
                        R* gradients, const Scratch& scratch, void* stream) {
    double* memory = scratch.room(landscape_gradients_workspace(dim, count));
    check(landscape_gradients(o, points, count, dim, out, gradients, memory, stream));
  }
};

}  // namespace unstuck::cuda
