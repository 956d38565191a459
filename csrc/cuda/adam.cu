// The Adam step on CUDA: one launch for all tensors of a parameter group, see math/adam.hpp for the
// formula. A block steps one chunk of one tensor; the last block to finish adds the blocks' sums of
// squared gradients up and counts the steps, and that of the last launch makes the tests of
// math/stagnation.hpp.
#include "cuda/adam.hpp"

#include "core/block.hpp"
#include "core/chunk.hpp"
#include "core/half.hpp"
#include "cuda/pack.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256;

// Everything about the tensors of one launch; passed by value, so that a step needs no copy to the
// device and a CUDA graph holds all of it.
template <int Bytes>
struct AdamPack {
  static constexpr int kTensorBytes = 5 * sizeof(void*) + sizeof(int64_t) + 2 * sizeof(uint32_t);
  static constexpr int kMost = Bytes / kTensorBytes;
  void *w[kMost], *m[kMost], *v[kMost];
  const void* g[kMost];
  float* step[kMost];
  int64_t numel[kMost];
  uint32_t first_block[kMost];  // of the launch
  uint32_t aligned[kMost];
  int count;
};

struct AdamTail {
  const float *loss_scale, *found_inf;
  double *partials, *stats;  // partials: one a block
  unsigned* ticket;
  StagnationConfig config;
  bool finish;
};
// Leaves room for the group, the tail and the pack's own count.
using Pack = AdamPack<kParameterBytes - int(sizeof(AdamGroupStep) + sizeof(AdamTail)) - 64>;
static_assert(sizeof(Pack) + sizeof(AdamGroupStep) + sizeof(AdamTail) <= kParameterBytes,
              "a launch takes more arguments than the device accepts");

template <class T, int N>
struct alignas(N * sizeof(T)) AdamVector {
  T x[N];
};

// N elements; returns the sum of their squared gradients.
template <class T, int N>
__device__ arithmetic_t<T> adam_elements(const Pack& pack, int t, int64_t i,
                                         const AdamCoefs<arithmetic_t<T>>& c) {
  using R = arithmetic_t<T>;
  using V = AdamVector<T, N>;
  V *const w = (V*)((T*)pack.w[t] + i), *const m = (V*)((T*)pack.m[t] + i),
           *const v = (V*)((T*)pack.v[t] + i);
  V W = *w, M = *m, Q = *v;
  const V G = *(const V*)((const T*)pack.g[t] + i);
  R squares = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    R wk = widen(W.x[k]), mk = widen(M.x[k]), vk = widen(Q.x[k]);
    const R grad = widen(G.x[k]);
    const R g = c.from_grad ? adam_element<true>(wk, grad, mk, vk, c)
                            : adam_element<false>(wk, grad, mk, vk, c);
    W.x[k] = narrow<T>(wk);
    M.x[k] = narrow<T>(mk);
    Q.x[k] = narrow<T>(vk);
    squares += g * g;
  }
  *w = W;
  *m = M;
  *v = Q;
  return squares;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(GPU_GRID_CONSTANT(Pack) pack, GPU_GRID_CONSTANT(AdamGroupStep) group,
                GPU_GRID_CONSTANT(AdamTail) tail) {
  using R = arithmetic_t<T>;
  __shared__ AdamCoefs<R> coefs;
  __shared__ double shared[kThreads / 32];
  if (tail.found_inf && *tail.found_inf != 0) return;

  const int t = tensor_of(pack, blockIdx.x);
  if (threadIdx.x == 0)
    coefs = narrowed<R>(adam_coefficients(group.resolved(), double(*pack.step[t]) + 1,
                                          tail.loss_scale ? double(*tail.loss_scale) : 1.0));
  __syncthreads();
  const AdamCoefs<R> c = coefs;
  R squares = 0;
  const uint32_t chunk = blockIdx.x - pack.first_block[t];
  const int64_t begin = chunk_begin(chunk), end = chunk_end(chunk, pack.numel[t]);
  int64_t i = begin;
  if (pack.aligned[t]) {
    constexpr int N = 16 / int(sizeof(T));
    const int64_t whole = begin + (end - begin) / N * N;
#pragma unroll 2
    for (i = begin + int64_t(threadIdx.x) * N; i < whole; i += int64_t(kThreads) * N)
      squares += adam_elements<T, N>(pack, t, i, c);
    i = whole;
  }
  for (i += threadIdx.x; i < end; i += kThreads) squares += adam_elements<T, 1>(pack, t, i, c);

  if (tail.stats) {
    const double x[1] = {double(squares)};
    const double total = block_sums(x, shared);
    if (threadIdx.x == 0) tail.partials[blockIdx.x] = total;
  }
  if (!last_block(tail.ticket)) return;

  for (int s = int(threadIdx.x); s < pack.count; s += kThreads) *pack.step[s] += 1;
  if (!tail.stats) return;
  double x[1] = {};
  for (unsigned b = threadIdx.x; b < gridDim.x; b += kThreads) x[0] += tail.partials[b];
  const double total = block_sums(x, shared);
  if (threadIdx.x != 0) return;
  tail.stats[kGradSquares] += total;
  if (tail.finish) track(tail.stats, tail.config);
}

// The tests, where there is no tensor whose step they would end.
__global__ void track_kernel(const float* found_inf, double* stats, StagnationConfig config) {
  if (!found_inf || *found_inf == 0) track(stats, config);
}

template <class T>
void launch(const Pack& pack, const AdamGroupStep& group, const AdamTail& tail, uint32_t blocks,
            cudaStream_t stream) {
  GPU_LAUNCH((adam_kernel<T>), blocks, kThreads, 0, stream, pack, group, tail);
}

bool is_aligned(const AdamTensor& t) {
  return (uintptr_t(t.w) | uintptr_t(t.g) | uintptr_t(t.m) | uintptr_t(t.v)) % 16 == 0;
}

}  // namespace

AdamLaunches::AdamLaunches(const std::vector<AdamTensor>& tensors)
    : list(launches_of(tensors, Pack::kMost,
                       [](const AdamTensor& t) { return chunks_of(t.numel); })) {
  for (const TensorLaunch& l : list) partials += l.blocks;
}

int64_t AdamLaunches::workspace_size() const { return partials + int64_t(list.size()); }

int adam_step(const AdamStep& step, const AdamLaunches& launches, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  if (launches.list.empty() && step.stats && step.finish) {
    GPU_LAUNCH(track_kernel, 1, 1, 0, s, step.found_inf, step.stats, step.config);
    return int(cudaGetLastError());
  }
  Pack pack;
  for (size_t n = 0; n < launches.list.size(); ++n) {
    const TensorLaunch& l = launches.list[n];
    pack.count = int(l.rows.size());
    uint32_t chunk = 0;
    for (int i = 0; i < pack.count; ++i) {
      const AdamTensor& t = step.tensors[l.rows[size_t(i)]];
      pack.w[i] = t.w;
      pack.g[i] = t.g;
      pack.m[i] = t.m;
      pack.v[i] = t.v;
      pack.step[i] = t.step;
      pack.numel[i] = t.numel;
      pack.first_block[i] = chunk;
      pack.aligned[i] = is_aligned(t);
      chunk += chunks_of(t.numel);
    }
    const AdamTail tail{
        step.loss_scale,
        step.found_inf,
        launches.workspace + l.first_block,
        step.stats,
        reinterpret_cast<unsigned*>(launches.workspace + launches.partials + int64_t(n)),
        step.config,
        step.finish && n + 1 == launches.list.size()};
    const AdamGroupStep& group = step.groups[l.group];
    switch (step.tensors[l.rows[0]].dtype) {
      case DType::f32:
        launch<float>(pack, group, tail, l.blocks, s);
        break;
      case DType::f64:
        launch<double>(pack, group, tail, l.blocks, s);
        break;
      case DType::bf16:
        launch<bfloat16>(pack, group, tail, l.blocks, s);
        break;
      default:
        launch<float16>(pack, group, tail, l.blocks, s);
    }
    if (const cudaError_t error = cudaGetLastError()) return int(error);
  }
  return 0;
}

}  // namespace unstuck::cuda
