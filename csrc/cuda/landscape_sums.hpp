// The values of a landscape at many points, none of which need be in memory. A warp takes one slice
// of one row of points, sixteen lanes beside each other and two groups of 64 coordinates at a time;
// the slices of a point are added up in a fixed order by a second kernel. How a point is cut
// depends on its dimension alone, so its value does not depend on how many others there are.
#pragma once
#include <algorithm>

#include "core/block.hpp"
#include "cuda/candidate_points.hpp"
#include "math/landscapes.hpp"

namespace unstuck::cuda {

// 128 coordinates are what a warp takes at once.
struct LandscapeSlices {
  static constexpr int64_t kWarp = 2 * kNoiseGroup, kLeast = 2, kMost = 64;
  static constexpr int64_t kItems = int64_t(1) << 17;  // rows times slices of one launch
  int64_t count, length;                               // slices of a row, and warps' steps of each
  __host__ __device__ explicit LandscapeSlices(int64_t dim) {
    const int64_t steps = dim > kWarp ? (dim + kWarp - 1) / kWarp : 1;
    int64_t wanted = (steps + kLeast - 1) / kLeast;
    if (wanted > kMost) wanted = kMost;
    length = (steps + wanted - 1) / wanted;
    count = (steps + length - 1) / length;
  }
  __host__ __device__ int64_t rows_at_once() const { return kItems / count; }
};

// What a slice leaves of a point.
struct LandscapePart {
  double a, b, first, last;
};

// In float64 numbers.
inline int64_t landscape_workspace(int64_t dim, int64_t rows, int most) {
  const LandscapeSlices slices(dim);
  if (slices.count == 1) return 0;
  constexpr int64_t kNumbers = sizeof(LandscapePart) / sizeof(double);
  return std::min(rows, slices.rows_at_once()) * slices.count * most * kNumbers;
}

template <class F, class R, class Points>
__global__ void __launch_bounds__(256)
    landscape_kernel(GPU_GRID_CONSTANT(Points) points, LandscapeParameters parameters,
                     int64_t first_row, int64_t rows, LandscapePart* parts, R* values) {
  constexpr unsigned kAll = 0xffffffffu;
  const LandscapeSlices slices(points.dim());
  const int lane = int(threadIdx.x) % 32;
  const int64_t item = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (item >= rows * slices.count) return;  // a whole warp
  const int64_t row = first_row + item / slices.count, slice = item % slices.count;
  const int members = points.members(row);
  const int64_t dim = points.dim(), begin = slice * slices.length * LandscapeSlices::kWarp;
  int64_t end = begin + slices.length * LandscapeSlices::kWarp;
  if (end > dim) end = dim;

  const F f{{parameters}};
  R a[Points::kMost], b[Points::kMost], before[Points::kMost], first[Points::kMost],
      last[Points::kMost];
#pragma unroll
  for (int m = 0; m < Points::kMost; ++m) {
    a[m] = before[m] = first[m] = last[m] = R(0);
    b[m] = F::kProduct ? R(1) : R(0);
  }
  if (F::kPairs && begin > 0) {  // the last coordinate before the slice: the fourth of its block
    R x[Points::kMost][4] = {};
    points.load(row, members, begin - 1 - 3 * kNoiseLanes, x);
    for (int m = 0; m < Points::kMost; ++m) before[m] = x[m][3];
  }
  for (int64_t start = begin; start < end; start += LandscapeSlices::kWarp) {
    const int64_t c = start + lane / kNoiseLanes * kNoiseGroup + lane % kNoiseLanes;
    R x[Points::kMost][4] = {};
    points.load(row, members, c, x);
#pragma unroll
    for (int m = 0; m < Points::kMost; ++m) {
      if (m >= members) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t i = c + kNoiseLanes * j;
        R left = R(0);
        if (F::kPairs) {
          // The neighbour is the next lane's; the first of sixteen finds it at the last one's word
          // before, which for the first word is that of the group before.
          left = __shfl_up_sync(kAll, x[m][j], 1);
          const R edge = j > 0 ? __shfl_sync(kAll, x[m][j > 0 ? j - 1 : 0], lane | 15)
                               : __shfl_sync(kAll, x[m][3], 15);
          if (lane % kNoiseLanes == 0) left = j == 0 && lane == 0 ? before[m] : edge;
        }
        if (i < dim && (!F::kPairs || i > 0))
          f.term(left, x[m][j], R(F::kPairs ? i : i + 1), a[m], b[m]);
        if (F::kEnds && i == 0) first[m] = x[m][j];
        if (F::kEnds && i == dim - 1) last[m] = x[m][j];
      }
      if (F::kPairs) before[m] = __shfl_sync(kAll, x[m][3], 31);
    }
  }
#pragma unroll
  for (int m = 0; m < Points::kMost; ++m) {
    if (m >= members) break;
    LandscapePart part{double(warp_sum(a[m])), 0, 0, 0};
    if (F::kSecond) part.b = double(F::kProduct ? warp_product(b[m]) : warp_sum(b[m]));
    if (F::kEnds) {  // one lane has each, the others 0
      part.first = double(warp_sum(first[m]));
      part.last = double(warp_sum(last[m]));
    }
    if (lane != 0) continue;
    if (slices.count == 1)
      values[points.first(row) + m] =
          R(f.template finish<double>(part.a, part.b, part.first, part.last, double(dim)));
    else
      parts[item * Points::kMost + m] = part;
  }
}

template <class F, class R, class Points>
__global__ void __launch_bounds__(256)
    landscape_finish_kernel(GPU_GRID_CONSTANT(Points) points, LandscapeParameters parameters,
                            int64_t first_row, int64_t rows, const LandscapePart* parts,
                            R* values) {
  const LandscapeSlices slices(points.dim());
  const int64_t point = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = first_row + point / Points::kMost;
  const int m = int(point % Points::kMost);
  if (point >= rows * Points::kMost || m >= points.members(row)) return;
  LandscapePart sum{0, F::kProduct ? 1.0 : 0.0, 0, 0};
  for (int64_t s = 0; s < slices.count; ++s) {
    const LandscapePart part =
        parts[(point / Points::kMost * slices.count + s) * Points::kMost + m];
    sum.a += part.a;
    sum.b = F::kProduct ? sum.b * part.b : sum.b + part.b;
    sum.first += part.first;
    sum.last += part.last;
  }
  const F f{{parameters}};
  values[points.first(row) + m] =
      R(f.template finish<double>(sum.a, sum.b, sum.first, sum.last, double(points.dim())));
}

template <class F, class R, class Points>
int launch_landscape(const LandscapeParameters& parameters, const Points& points, R* values,
                     double* workspace, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const LandscapeSlices slices(points.dim());
  auto* parts = reinterpret_cast<LandscapePart*>(workspace);
  for (int64_t row = 0; row < points.rows(); row += slices.rows_at_once()) {
    const int64_t rows = std::min(slices.rows_at_once(), points.rows() - row);
    const auto blocks = [](int64_t threads) {
      return unsigned((threads + kThreads - 1) / kThreads);
    };
    GPU_LAUNCH((landscape_kernel<F, R, Points>), blocks(rows * slices.count * 32), kThreads, 0,
               stream, points, parameters, row, rows, parts, values);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
    if (slices.count == 1) continue;
    GPU_LAUNCH((landscape_finish_kernel<F, R, Points>), blocks(rows * Points::kMost), kThreads, 0,
               stream, points, parameters, row, rows, parts, values);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
  }
  return 0;
}

// The values at all points; returns a cudaError_t. The workspace is as landscape_workspace() says.
template <class R, class Points>
int landscape_values(const LandscapeView& objective, const Points& points, R* values,
                     double* workspace, void* stream) {
  using Function = int (*)(const LandscapeParameters&, const Points&, R*, double*, cudaStream_t);
#define UNSTUCK_LAUNCHER(F) launch_landscape<F, R, Points>,
  static const Function table[] = {UNSTUCK_LANDSCAPES(UNSTUCK_LAUNCHER)};
#undef UNSTUCK_LAUNCHER
  return table[objective.landscape](objective.parameters, points, values, workspace,
                                    static_cast<cudaStream_t>(stream));
}

}  // namespace unstuck::cuda
