// The LSTM rule's step on CUDA: one launch for all tensors of a parameter group and one pass over
// memory, see math/lstm.hpp for the formulas. A thread steps a few coordinates, whose features and
// hidden units stay in shared memory; the weights come by there too, some units at a time, so that
// any width fits.
//
// The floor of 20 hidden units is memory: 28 bytes a parameter, and 16 a hidden unit for the two
// numbers of its state, over the bandwidth of the device; 8 (features + hidden) + 2 operations a
// hidden unit come close to it.
#include "cuda/lstm.hpp"

#include "core/block.hpp"
#include "core/chunk.hpp"
#include "cuda/pack.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 64;
constexpr int kOwn = 2;             // coordinates a thread
constexpr int kUnits = 4;           // hidden units that a thread computes side by side
constexpr int kStage = 2 * kUnits;  // those whose weights are in shared memory
constexpr int kGates = 4;           // i, f, o, z
constexpr int64_t kPiece = kThreads * kOwn;

// Everything about the tensors of one launch; passed by value, so that a step needs no copy to the
// device and a CUDA graph holds all of it.
template <int Bytes>
struct LstmPack {
  static constexpr int kTensorBytes = 7 * sizeof(void*) + sizeof(int64_t) + sizeof(uint32_t);
  static constexpr int kMost = Bytes / kTensorBytes;
  float *w[kMost], *m[kMost], *v[kMost], *hidden[kMost], *cell[kMost];
  const float* g[kMost];
  float* step[kMost];
  int64_t numel[kMost];
  uint32_t first_block[kMost];
  int count;
};

struct LstmCall {
  LearnedGroup group;
  const float* theta;
  lstm::Net net;
  const float *loss_scale, *found_inf;
  unsigned* ticket;
};
// Leaves room for the pack's own count.
using Pack = LstmPack<kParameterBytes - int(sizeof(LstmCall)) - 64>;
static_assert(sizeof(Pack) + sizeof(LstmCall) <= kParameterBytes,
              "a launch takes more arguments than the device accepts");

// What the gates of one unit make of one input.
struct alignas(16) Gates {
  float x[kGates];
};

// [kStage, rows + 1] Gates, the last of a unit its biases; then [rows, kPiece] features and hidden
// units.
constexpr int64_t block_bytes(int rows) {
  return int64_t(kStage) * (rows + 1) * int64_t(sizeof(Gates)) + rows * kPiece * 4;
}
static_assert(block_bytes(lstm::kFeatures + lstm::kMostHidden) <= 48 * 1024,
              "more than a block has without asking");

// The weights of units first, first + 1, ...; zeros for those that there are not.
__device__ void stage(Gates* to, const float* theta, const lstm::Net& net, int first) {
  const int inputs = net.inputs(), rows = inputs + net.hidden;
  for (int i = int(threadIdx.x); i < kStage * (rows + 1); i += kThreads) {
    const int unit = first + i / (rows + 1), k = i % (rows + 1);
    const int64_t own = k < inputs ? inputs : k < rows ? net.hidden : 1;  // weights a gate has
    const float* from = theta + (k < inputs ? k
                                 : k < rows ? net.recurrent() + k - inputs
                                            : net.bias());
    for (int gate = 0; gate < kGates; ++gate)
      to[i].x[gate] = unit < net.hidden ? from[(int64_t(gate) * net.hidden + unit) * own] : 0.0f;
  }
}

// The gates of kUnits units of this thread's coordinates.
__device__ void add_products(const Gates* weights, const float* panel, int rows,
                             float (&sums)[kUnits][kOwn][kGates]) {
#pragma unroll
  for (int n = 0; n < kUnits; ++n)
#pragma unroll
    for (int q = 0; q < kOwn; ++q)
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate)
        sums[n][q][gate] = weights[n * (rows + 1) + rows].x[gate];
  for (int k = 0; k < rows; ++k, panel += kPiece) {
    float x[kOwn];
#pragma unroll
    for (int q = 0; q < kOwn; ++q) x[q] = panel[q * kThreads];
#pragma unroll
    for (int n = 0; n < kUnits; ++n) {
      const Gates weight = weights[n * (rows + 1) + k];
#pragma unroll
      for (int q = 0; q < kOwn; ++q)
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate)
          sums[n][q][gate] = __fmaf_rn(weight.x[gate], x[q], sums[n][q][gate]);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    lstm_kernel(GPU_GRID_CONSTANT(Pack) pack, GPU_GRID_CONSTANT(LstmCall) call) {
  GPU_DYNAMIC_SHARED(float, shared);
  __shared__ lstm::Coefs coefs;
  if (call.found_inf && *call.found_inf != 0) return;

  const int t = tensor_of(pack, blockIdx.x);
  if (threadIdx.x == 0)
    coefs = lstm::coefficients(double(*pack.step[t]) + 1, call.group.rate(),
                               call.group.weight_decay, call.group.num_steps, call.group.maximize,
                               call.loss_scale ? double(*call.loss_scale) : 1.0);
  __syncthreads();

  const lstm::Net& net = call.net;
  const int inputs = net.inputs(), rows = inputs + net.hidden;
  Gates* const weights = reinterpret_cast<Gates*>(shared);
  float* const panel = shared + kStage * (rows + 1) * kGates + threadIdx.x;
  const int64_t numel = pack.numel[t];
  const int64_t begin = int64_t(blockIdx.x - pack.first_block[t]) * kPiece + threadIdx.x;
  float w[kOwn] = {}, direction[kOwn] = {}, change[kOwn] = {};
#pragma unroll
  for (int q = 0; q < kOwn; ++q) {
    const int64_t i = begin + q * kThreads;
    float* const x = panel + q * kThreads;
    const bool there = i < numel;
    float g = 0, m = 0, v = 0, d;
    if (there) {
      w[q] = pack.w[t][i];
      g = pack.g[t][i] * coefs.grad_scale;
      m = pack.m[t][i];
      v = pack.v[t][i];
    }
    direction[q] = lstm::moments(g, m, v, coefs, d);
    lstm::features(net.features, w[q], g, direction[q], d, coefs, x, kPiece);
    if (there) {
      pack.m[t][i] = m;
      pack.v[t][i] = v;
    }
    for (int j = 0; j < net.hidden; ++j)
      x[(inputs + j) * kPiece] = there ? pack.hidden[t][j * numel + i] : 0.0f;
  }
  for (int first = 0; first < net.hidden; first += kStage) {
    __syncthreads();
    stage(weights, call.theta, net, first);
    __syncthreads();
    for (int u = 0; u < kStage && first + u < net.hidden; u += kUnits) {
      float sums[kUnits][kOwn][kGates];
      add_products(weights + u * (rows + 1), panel, rows, sums);
#pragma unroll
      for (int n = 0; n < kUnits; ++n) {
        const int unit = first + u + n;
        if (unit >= net.hidden) break;
        const float out = call.theta[net.out() + unit];
#pragma unroll
        for (int q = 0; q < kOwn; ++q) {
          const int64_t i = begin + q * kThreads, at = unit * numel + i;
          if (i >= numel) break;
          const float (&s)[kGates] = sums[n][q];
          float c = pack.cell[t][at];
          const float h = lstm::cell(s[0], s[1], s[2], s[3], c);
          pack.cell[t][at] = c;
          pack.hidden[t][at] = h;
          change[q] += out * h;
        }
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kOwn; ++q) {
    const int64_t i = begin + q * kThreads;
    if (i < numel) pack.w[t][i] = lstm::moved(w[q], direction[q], change[q], net, coefs);
  }

  if (!last_block(call.ticket)) return;
  for (int s = int(threadIdx.x); s < pack.count; s += kThreads) *pack.step[s] += 1;
}

}  // namespace

LstmLaunches::LstmLaunches(const std::vector<LstmTensor>& tensors)
    : list(launches_of(tensors, Pack::kMost,
                       [](const LstmTensor& t) { return chunks_of(t.numel, kPiece); })) {}

int64_t LstmLaunches::workspace_size() const { return int64_t(list.size()); }

int lstm_step(const LstmStep& step, const LstmLaunches& launches, void* stream) {
  Pack pack;
  for (size_t n = 0; n < launches.list.size(); ++n) {
    const TensorLaunch& l = launches.list[n];
    pack.count = int(l.rows.size());
    uint32_t block = 0;
    for (int i = 0; i < pack.count; ++i) {
      const LstmTensor& t = step.tensors[l.rows[size_t(i)]];
      pack.w[i] = static_cast<float*>(t.w);
      pack.g[i] = static_cast<const float*>(t.g);
      pack.m[i] = static_cast<float*>(t.m);
      pack.v[i] = static_cast<float*>(t.v);
      pack.hidden[i] = static_cast<float*>(t.hidden);
      pack.cell[i] = static_cast<float*>(t.cell);
      pack.step[i] = t.step;
      pack.numel[i] = t.numel;
      pack.first_block[i] = block;
      block += chunks_of(t.numel, kPiece);
    }
    const LstmCall call{
        step.groups[l.group], step.theta,     step.net,
        step.loss_scale,      step.found_inf, reinterpret_cast<unsigned*>(launches.workspace + n)};
    const auto bytes = size_t(block_bytes(step.net.inputs() + step.net.hidden));
    GPU_LAUNCH(lstm_kernel, l.blocks, kThreads, bytes, static_cast<cudaStream_t>(stream), pack,
               call);
    if (const cudaError_t error = cudaGetLastError()) return int(error);
  }
  return 0;
}

}  // namespace unstuck::cuda
