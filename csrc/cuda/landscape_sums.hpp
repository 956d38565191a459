// The values of a landscape at many points, none of which need be in memory. A warp takes one slice
// of one row of points, sixteen lanes beside each other and two groups of 64 coordinates at a time;
// the slices of a point are added up in a fixed order by a second kernel. How a point is cut
// depends on its dimension alone, so its value does not depend on how many others there are.
//
// The kernel is compiled for every landscape and dtype, so its body is there once for both points
// of a row: loops over them stay loops, and what they pick lies in registers.
#pragma once
#include <algorithm>
#include <type_traits>

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
constexpr int64_t kPartNumbers = sizeof(LandscapePart) / sizeof(double);

// The parts of one launch, in float64 numbers.
inline int64_t landscape_parts(int64_t dim, int64_t rows, int most) {
  const LandscapeSlices slices(dim);
  return std::min(rows, slices.rows_at_once()) * slices.count * most * kPartNumbers;
}
// Where a point is one slice its value is written at once.
inline int64_t landscape_workspace(int64_t dim, int64_t rows, int most) {
  return LandscapeSlices(dim).count == 1 ? 0 : landscape_parts(dim, rows, most);
}

// The points of the rows of one launch.
struct LandscapeRows {
  int64_t first, count;  // rows
  int64_t points, dim;   // of all launches
  int share, most;       // points of a row, and parts that a slice of it has room for
};

// Adds up the parts that a launch left. `prepared`: what a gradient needs
// (math/landscape_slopes.hpp) takes the place of each point's first part. Returns a cudaError_t.
template <class R>
int finish_landscapes(const LandscapeView& objective, const LandscapeRows& rows,
                      LandscapePart* parts, bool prepared, R* values, cudaStream_t stream);

// Blocks that a multiprocessor is to have registers for; 1024 threads are all that some can hold.
template <class R>
constexpr int kLandscapeBlocks = sizeof(R) == 8 ? 2 : 4;

// Writes values where there is one slice and `values` is given, else parts.
template <class F, class R, class Points>
__global__ void __launch_bounds__(256, kLandscapeBlocks<R>)
    landscape_kernel(GPU_GRID_CONSTANT(Points) points, LandscapeParameters parameters,
                     int64_t first_row, int64_t rows, LandscapePart* parts, R* values) {
  constexpr unsigned kAll = 0xffffffffu;
  constexpr int kMost = Points::kMost;
  const LandscapeSlices slices(points.dim());
  const int lane = int(threadIdx.x) % 32;
  const int64_t item = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (item >= rows * slices.count || !points.wanted()) return;  // a whole warp
  const int64_t row = first_row + item / slices.count, slice = item % slices.count;
  const int members = points.members(row);
  const int64_t dim = points.dim(), begin = slice * slices.length * LandscapeSlices::kWarp;
  int64_t end = begin + slices.length * LandscapeSlices::kWarp;
  if (end > dim) end = dim;

  const F f{{parameters}};
  R a[kMost], b[kMost], before[kMost], first[kMost], last[kMost];
#pragma unroll
  for (int m = 0; m < kMost; ++m) {
    a[m] = before[m] = first[m] = last[m] = R(0);
    b[m] = F::kProduct ? R(1) : R(0);
  }
  // Neighbours: the last coordinate before the slice comes first, the fourth of its block.
  bool ahead = F::kPairs && begin > 0;
  int64_t start = begin;
#pragma unroll 1
  while (start < end) {
    const int64_t c = ahead ? begin - 1 - 3 * kNoiseLanes
                            : start + lane / kNoiseLanes * kNoiseGroup + lane % kNoiseLanes;
    R x[kMost][4];
    points.load(row, members, c, x);
#pragma unroll 1
    for (int m = 0; m < members; ++m) {
      R now[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) now[j] = picked(x, m, j);
      R sum = picked(a, m), other = picked(b, m);
      const R edge_before = picked(before, m);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t i = c + kNoiseLanes * j;
        R left = R(0);
        if (F::kPairs) {
          // The neighbour is the next lane's; the first of sixteen finds it at the last one's word
          // before, which for the first word is that of the group before.
          left = __shfl_up_sync(kAll, now[j], 1);
          const R edge = j > 0 ? __shfl_sync(kAll, now[j > 0 ? j - 1 : 0], lane | 15)
                               : __shfl_sync(kAll, now[3], 15);
          if (lane % kNoiseLanes == 0) left = j == 0 && lane == 0 ? edge_before : edge;
        }
        if (i < dim && (!F::kPairs || (i > 0 && !ahead)))
          f.term(left, now[j], R(F::kPairs ? i : i + 1), sum, other);
        if (F::kEnds && i == 0) replace(first, m, now[j]);
        if (F::kEnds && i == dim - 1 && !ahead) replace(last, m, now[j]);
      }
      replace(a, m, sum);
      if (F::kSecond) replace(b, m, other);
      if (F::kPairs) replace(before, m, __shfl_sync(kAll, now[3], 31));
    }
    if (!ahead) start += LandscapeSlices::kWarp;
    ahead = false;
  }
#pragma unroll 1
  for (int m = 0; m < members; ++m) {
    LandscapePart part{double(warp_sum(picked(a, m))), 0, 0, 0};
    if (F::kSecond)
      part.b = double(F::kProduct ? warp_product(picked(b, m)) : warp_sum(picked(b, m)));
    if (F::kEnds) {  // one lane has each, the others 0
      part.first = double(warp_sum(picked(first, m)));
      part.last = double(warp_sum(picked(last, m)));
    }
    if (lane != 0) continue;
    if (slices.count == 1 && values)
      values[points.first(row) + m] =
          R(f.template finish<double>(part.a, part.b, part.first, part.last, double(dim)));
    else
      parts[item * kMost + m] = part;
  }
}

// body(f) with f the landscape of this number, when it is a planar one.
template <class Body>
__device__ inline void with_planar(const LandscapeView& objective, const Body& body) {
  int number = 0;
  const auto call = [&](const auto& f) {
    if constexpr (std::decay_t<decltype(f)>::kPlanar)
      if (objective.landscape == number) body(f);
    ++number;
  };
#define UNSTUCK_CALL(F) call(F{{objective.parameters}});
  UNSTUCK_LANDSCAPES(UNSTUCK_CALL)
#undef UNSTUCK_CALL
}

// All planar landscapes: a thread a row.
template <class R, class Points>
__global__ void __launch_bounds__(256)
    planar_kernel(GPU_GRID_CONSTANT(Points) points, LandscapeView objective, int64_t first_row,
                  int64_t rows, R* values) {
  constexpr int kMost = Points::kMost;
  const int64_t item = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, row = first_row + item;
  if (item >= rows || !points.wanted()) return;
  const int members = points.members(row);
  R sum[kMost] = {}, before[kMost] = {};
#pragma unroll 1
  for (int64_t c = 0; c < points.dim(); ++c) {
    R x[kMost][4];
    points.load(row, members, c, x);
#pragma unroll 1
    for (int m = 0; m < members; ++m) {
      const R now = picked(x, m, 0);
      R a = picked(sum, m), b = R(0);
      if (c > 0)
        with_planar(objective, [&](const auto& f) { f.term(picked(before, m), now, R(c), a, b); });
      replace(sum, m, a);
      replace(before, m, now);
    }
  }
  for (int m = 0; m < members; ++m) values[points.first(row) + m] = picked(sum, m);
}

// Returns whether there are parts to be added up.
template <class F, class R, class Points>
bool launch_landscape(const LandscapeView& objective, const Points& points, int64_t row,
                      int64_t rows, LandscapePart* parts, bool prepared, R* values,
                      cudaStream_t stream) {
  constexpr int kThreads = 256;
  const auto blocks = [](int64_t threads) { return unsigned((threads + kThreads - 1) / kThreads); };
  if constexpr (F::kPlanar) {
    GPU_LAUNCH((planar_kernel<R, Points>), blocks(rows), kThreads, 0, stream, points, objective,
               row, rows, values);
    return false;
  } else {
    const LandscapeSlices slices(points.dim());
    const bool finish = slices.count > 1 || (prepared && F::kSecond);
    GPU_LAUNCH((landscape_kernel<F, R, Points>), blocks(rows * slices.count * 32), kThreads, 0,
               stream, points, objective.parameters, row, rows, parts, finish ? nullptr : values);
    return finish;
  }
}

// The values at all points; returns a cudaError_t. The workspace is as landscape_workspace() says.
// With `prepared` it is as landscape_parts() does, and what finish_landscapes() prepares is there
// when each(rows, parts), which returns a cudaError_t too, is called after every launch.
template <class R, class Points, class Each>
int landscape_values(const LandscapeView& objective, const Points& points, R* values,
                     double* workspace, bool prepared, const Each& each, cudaStream_t stream) {
  using Launch = bool (*)(const LandscapeView&, const Points&, int64_t, int64_t, LandscapePart*,
                          bool, R*, cudaStream_t);
#define UNSTUCK_LAUNCHER(F) launch_landscape<F, R, Points>,
  static const Launch table[] = {UNSTUCK_LANDSCAPES(UNSTUCK_LAUNCHER)};
#undef UNSTUCK_LAUNCHER
  const int64_t at_once = LandscapeSlices(points.dim()).rows_at_once();
  auto* parts = reinterpret_cast<LandscapePart*>(workspace);
  for (int64_t row = 0; row < points.rows(); row += at_once) {
    const LandscapeRows rows{row,
                             std::min(at_once, points.rows() - row),
                             points.count,
                             points.dim(),
                             points.share(),
                             Points::kMost};
    const bool finish = table[objective.landscape](objective, points, row, rows.count, parts,
                                                   prepared, values, stream);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
    if (finish)
      if (const int error = finish_landscapes(objective, rows, parts, prepared, values, stream))
        return error;
    if (const int error = each(rows, parts)) return error;
  }
  return 0;
}
template <class R, class Points>
int landscape_values(const LandscapeView& objective, const Points& points, R* values,
                     double* workspace, void* stream) {
  const auto nothing = [](const LandscapeRows&, const LandscapePart*) { return 0; };
  return landscape_values(objective, points, values, workspace, false, nothing,
                          static_cast<cudaStream_t>(stream));
}

}  // namespace unstuck::cuda
