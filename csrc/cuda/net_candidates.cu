// Candidates of a two-layer net on CUDA. A block has one candidate and a slice of the rows. It
// draws the weights of 32 hidden units at a time into shared memory, multiplies 128 rows of data
// with them, and adds what the units say to the outputs, which stay in registers; for more classes
// than it has room for, the hidden layer is computed again. The parts of a candidate are added up
// in a fixed order.
#include "cuda/candidate_points.hpp"
#include "cuda/objectives.hpp"
#include "cuda/rows.hpp"
#include "cuda/tile.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = kTileThreads, kWarps = kThreads / 32;
constexpr int kClasses = 16;                           // at a time
constexpr int kAbreast = kThreads / kTileRows;         // threads of a row, each with
constexpr int kOwnClasses = kClasses / kAbreast;       // classes of its own
constexpr int64_t kMostCandidates = int64_t(1) << 16;  // of a launch

Parts row_parts(int64_t n, int64_t count) {
  return Parts(n, kTileRows, std::max<int64_t>(kMostBlocks / std::max<int64_t>(count, 1), 1));
}

// One candidate.
template <class R>
struct Weights {
  const RegionView<R>& region;
  NoiseKey key;
  uint32_t unit;
  bool opposite;
  R sigma;

  // Calls store(c - begin, w_c) for the coordinates [begin, end), shared out over `ranks` threads.
  template <class Store>
  __device__ void draw(int64_t begin, int64_t end, int rank, int ranks, const Store& store) const {
    const int64_t last = blocks_of(end);
    for (int64_t b = begin / kNoiseGroup * kNoiseLanes + rank; b < last; b += ranks) {
      float eps[4];
      draw_normals(uint32_t(b), unit, key, eps);
      const int64_t first = first_coordinate(b);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t c = first + j * kNoiseLanes;
        if (c < begin || c >= end) continue;
        Coordinate<R> here;
        here.load(region, c);
        store(int(c - begin), here.place(region, sigma, R(opposite ? -eps[j] : eps[j])));
      }
    }
  }
};

template <class R>
struct Memory {
  union {
    Tile<R> tile;
    R active[kTileRows][kTileVectors + 1];
    R outputs[kClasses][kTileRows + 1];
  };
  R first_bias[kTileVectors], second[kClasses][kTileVectors + 1], second_bias[kClasses];
};

// active[r][h] for `units` hidden units from h0 on, and all that the second layer wants of them.
// Ends without a barrier.
template <class R>
__device__ void hidden_layer(Memory<R>& m, const NetData& net, const Weights<R>& w, const R* data,
                             int64_t rows, int64_t h0, int units, int64_t c0, int classes) {
  const int rank = int(threadIdx.x), lane = rank % 32, warp = rank / 32;
  const int64_t F = net.features, H = net.hidden;
  R sums[kOwnRows][kOwnVectors] = {};
  if (F <= kTileDepth) {  // one run of coordinates
    const int depth = int(F);
    w.draw(h0 * F, (h0 + units) * F, rank, kThreads,
           [&](int i, R x) { m.tile.vectors[i / depth][i % depth] = x; });
    multiply_tile(m.tile, data, net.stride, rows, depth, sums);
  } else {
    for (int64_t f = 0; f < F; f += kTileDepth) {
      const int depth = int(F - f < kTileDepth ? F - f : kTileDepth);
      for (int h = warp; h < units; h += kWarps)
        w.draw((h0 + h) * F + f, (h0 + h) * F + f + depth, lane, 32,
               [&](int i, R x) { m.tile.vectors[h][i] = x; });
      multiply_tile(m.tile, data + f, net.stride, rows, depth, sums);
    }
  }
  const int64_t first_bias = H * F + h0, second = H * (F + 1) + h0;
  if (warp == 0)
    w.draw(first_bias, first_bias + units, lane, 32, [&](int i, R x) { m.first_bias[i] = x; });
  for (int c = warp; c < classes; c += kWarps)
    w.draw(second + (c0 + c) * H, second + (c0 + c) * H + units, lane, 32,
           [&](int i, R x) { m.second[c][i] = x; });
  __syncthreads();
#pragma unroll
  for (int v = 0; v < kOwnVectors; ++v) {
    const int h = tile_vector() + kAcross * v;
    if (h >= units) break;
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r)
      m.active[tile_row() + kDown * r][h] = relu(sums[r][v] + m.first_bias[h]);
  }
}

// outputs[c][r] of 128 rows for `classes` classes from c0 on.
template <class R>
__device__ void forward(Memory<R>& m, const NetData& net, const Weights<R>& w, const R* data,
                        int64_t rows, int64_t c0, int classes) {
  const int row = int(threadIdx.x) % kTileRows, ahead = int(threadIdx.x) / kTileRows;
  R z[kOwnClasses] = {};
  for (int64_t h0 = 0; h0 < net.hidden; h0 += kTileVectors) {
    const int units = int(net.hidden - h0 < kTileVectors ? net.hidden - h0 : kTileVectors);
    hidden_layer(m, net, w, data, rows, h0, units, c0, classes);
    __syncthreads();
    for (int h = 0; h < units; ++h) {
      const R active = m.active[row][h];
#pragma unroll
      for (int j = 0; j < kOwnClasses; ++j) {
        const int c = ahead + j * kAbreast;
        if (c < classes) z[j] += m.second[c][h] * active;
      }
    }
    __syncthreads();
  }
  const int64_t biases = net.hidden * (net.features + 1) + net.outputs * net.hidden + c0;
  if (threadIdx.x < 32)
    w.draw(biases, biases + classes, int(threadIdx.x), 32,
           [&](int i, R x) { m.second_bias[i] = x; });
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kOwnClasses; ++j) {
    const int c = ahead + j * kAbreast;
    if (c < classes) m.outputs[c][row] = z[j] + m.second_bias[c];
  }
  __syncthreads();
}

// parts [candidates of the launch, slices]
template <class R>
__global__ void __launch_bounds__(kThreads)
    net_kernel(NetData net, GPU_GRID_CONSTANT(RegionView<R>) region, DrawView draw, int64_t first,
               int64_t length, double* parts) {
  __shared__ Memory<R> memory;
  __shared__ double shared[kWarps];
  const int64_t candidate = first + blockIdx.x;
  const bool opposite = draw.antithetic && candidate % 2;
  const Weights<R> w{region, draw.key, uint32_t(draw.antithetic ? candidate / 2 : candidate),
                     opposite, sigma_of(region, candidate)};
  const int64_t begin = int64_t(blockIdx.y) * length;
  const int64_t end = begin + length < net.n ? begin + length : net.n;
  double loss[1] = {0};
  for (int64_t start = begin; start < end; start += kTileRows) {
    const int64_t row = start + threadIdx.x;
    const bool mine = threadIdx.x < kTileRows && row < end;
    LogSum<R> sum;
    double output = NAN;  // of the row's class: of one that does not exist there is no loss
    for (int64_t c0 = 0; c0 < net.outputs; c0 += kClasses) {
      const int classes = int(net.outputs - c0 < kClasses ? net.outputs - c0 : kClasses);
      forward(memory, net, w, static_cast<const R*>(net.x) + start * net.stride, end - start, c0,
              classes);
      if (mine && net.cross_entropy) {
        const int64_t label = static_cast<const int64_t*>(net.y)[row];
        for (int c = 0; c < classes; ++c) {
          const R z = memory.outputs[c][threadIdx.x];
          if (c0 + c == label) output = double(z);
          sum.add(z);
        }
      } else if (mine && c0 == 0) {
        loss[0] += bce_row(memory.outputs[0][threadIdx.x], static_cast<const R*>(net.y)[row]);
      }
      __syncthreads();
    }
    if (mine && net.cross_entropy) loss[0] += sum.value() - output;
  }
  const double total = block_sums(loss, shared);
  if (threadIdx.x == 0) parts[int64_t(blockIdx.x) * gridDim.y + blockIdx.y] = total;
}

template <class R>
__global__ void __launch_bounds__(kThreads)
    mean_kernel(const double* parts, int64_t slices, int64_t count, double n, R* losses) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  double sum = 0;
  for (int64_t s = 0; s < slices; ++s) sum += parts[i * slices + s];
  losses[i] = R(sum / n);
}

}  // namespace

int64_t net_candidates_workspace(int64_t n, int64_t count) {
  return std::min(count, kMostCandidates) * row_parts(n, count).count;
}

template <class R>
int net_candidates(const NetData& net, const RegionView<R>& region, const DrawView& draw,
                   int64_t count, R* losses, double* workspace, void* to) {
  const auto stream = static_cast<cudaStream_t>(to);
  const Parts rows = row_parts(net.n, count);
  for (int64_t first = 0; first < count; first += kMostCandidates) {
    const int64_t some = std::min(kMostCandidates, count - first);
    const dim3 grid(unsigned(some), unsigned(rows.count));
    GPU_LAUNCH(net_kernel<R>, grid, kThreads, 0, stream, net, region, draw, first, rows.length,
               workspace);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
    GPU_LAUNCH(mean_kernel<R>, unsigned((some + kThreads - 1) / kThreads), kThreads, 0, stream,
               workspace, rows.count, some, double(net.n), losses + first);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
  }
  return 0;
}

template int net_candidates(const NetData&, const RegionView<float>&, const DrawView&, int64_t,
                            float*, double*, void*);
template int net_candidates(const NetData&, const RegionView<double>&, const DrawView&, int64_t,
                            double*, double*, void*);

}  // namespace unstuck::cuda
