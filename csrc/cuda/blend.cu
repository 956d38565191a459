// The blend step on CUDA: one launch for all tensors of a parameter group, see math/blend.hpp for
// the formula. A block steps one chunk of one tensor; the last block to finish adds the blocks'
// sums up, counts the steps, and lets the gate learn and decide.
#include "cuda/blend.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/block.hpp"
#include "core/chunk.hpp"
#include "core/half.hpp"
#include "cuda/pack.hpp"

namespace unstuck::cuda {

namespace {

constexpr int kThreads = 256;

enum Meta { kNoSums, kSums, kSumsAndDirection };

// Everything about the tensors of one launch; passed by value, so that a step needs no copy to the
// device and a CUDA graph holds all of it.
template <int Bytes>
struct Pack {
  static constexpr int kTensorBytes = 7 * sizeof(void*) + sizeof(int64_t) + 2 * sizeof(uint32_t);
  static constexpr int kMost = Bytes / kTensorBytes;
  void *w[kMost], *m[kMost], *v[kMost], *buffer[kMost], *direction[kMost];
  const void* g[kMost];
  float* step[kMost];
  int64_t numel[kMost];
  uint32_t first_block[kMost];  // of the launch
  uint32_t unit[kMost];         // of the gate; the two top bits are the flags below
  int count;
};
constexpr uint32_t kHadPrevious = 1u << 31, kAligned = 1u << 30, kUnitMask = kAligned - 1;

struct Tail {
  const float *loss_scale, *found_inf;
  double* partials;  // [chunks of the launch, kBlendSums]
  unsigned* ticket;
  bool first, last, finish;
};
// Leaves room for the group, the tail and the pack's own count.
using LaunchPack = Pack<kParameterBytes - int(sizeof(BlendGroupStep) + sizeof(Tail)) - 64>;
static_assert(sizeof(LaunchPack) + sizeof(BlendGroupStep) + sizeof(Tail) <= kParameterBytes,
              "a launch takes more arguments than the device accepts");

template <class T>
constexpr int kVector = 16 / int(sizeof(T));
template <class T>
struct alignas(16) Vector {
  T x[kVector<T>];
};

template <class T, bool HasBuffer, Meta meta>
struct Step {
  using R = arithmetic_t<T>;
  static constexpr bool kTakesSums = meta != kNoSums, kCounts = true;
  T *w, *m, *v, *buffer, *direction;
  const T* g;

  __device__ Step(const LaunchPack& pack, int t)
      : w((T*)pack.w[t]),
        m((T*)pack.m[t]),
        v((T*)pack.v[t]),
        buffer((T*)pack.buffer[t]),
        direction((T*)pack.direction[t]),
        g((const T*)pack.g[t]) {}

  // kVector elements, or one.
  template <class V, int N>
  __device__ void run(int64_t i, const BlendCoefs<R>& c, R* sums) const {
    V W = *(const V*)(w + i), M = *(const V*)(m + i), Q = *(const V*)(v + i);
    const V G = *(const V*)(g + i);
    V B, D;
    if (HasBuffer) B = *(const V*)(buffer + i);
    if (meta == kSumsAndDirection) D = *(const V*)(direction + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      R wk = widen(W.x[k]), mk = widen(M.x[k]), vk = widen(Q.x[k]), bk = 0, gk, ak, dk, diff = 0;
      if (HasBuffer) bk = widen(B.x[k]);
      if (meta != kNoSums) {
        R d = HasBuffer ? bk : mk * c.unshare;
        if (meta == kSumsAndDirection) d = widen(D.x[k]);
        diff = previous_difference(wk, mk, vk, d, c);
      }
      blend_element<HasBuffer>(wk, R(widen(G.x[k])), mk, vk, bk, gk, ak, dk, c);
      W.x[k] = narrow<T>(wk);
      M.x[k] = narrow<T>(mk);
      Q.x[k] = narrow<T>(vk);
      if (HasBuffer) B.x[k] = narrow<T>(bk);
      if (meta == kSumsAndDirection) D.x[k] = narrow<T>(dk);
      if (meta != kNoSums) {
        sums[kGG] += gk * gk;
        sums[kDD] += dk * dk;
        sums[kAA] += ak * ak;
        sums[kGD] += gk * dk;
        sums[kGA] += gk * ak;
        sums[kDA] += dk * ak;
        sums[kHyper] += gk * diff;
      }
    }
    *(V*)(w + i) = W;
    *(V*)(m + i) = M;
    *(V*)(v + i) = Q;
    if (HasBuffer) *(V*)(buffer + i) = B;
    if (meta == kSumsAndDirection) *(V*)(direction + i) = D;
  }
};

// The sums kGG and kHyper of another gradient at the state as it is; nothing is written.
template <class T>
struct Hypergradient {
  using R = arithmetic_t<T>;
  static constexpr bool kTakesSums = true, kCounts = false;
  const T *w, *m, *v, *kept, *g;

  __device__ Hypergradient(const LaunchPack& pack, int t)
      : w((const T*)pack.w[t]),
        m((const T*)pack.m[t]),
        v((const T*)pack.v[t]),
        kept((const T*)(pack.direction[t] ? pack.direction[t] : pack.buffer[t])),
        g((const T*)pack.g[t]) {}

  template <class V, int N>
  __device__ void run(int64_t i, const BlendCoefs<R>& c, R* sums) const {
    const V W = *(const V*)(w + i), M = *(const V*)(m + i), Q = *(const V*)(v + i),
            G = *(const V*)(g + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const R mk = widen(M.x[k]), gk = R(widen(G.x[k])) * c.grad_scale;
      const R d = kept ? R(widen(kept[i + k])) : mk * c.unshare;
      sums[kGG] += gk * gk;
      sums[kHyper] += gk * previous_difference(R(widen(W.x[k])), mk, R(widen(Q.x[k])), d, c);
    }
  }
};

template <class T>
struct One {
  T x[1];
};

template <class R>
__device__ BlendCoefs<R> coefficients(const LaunchPack& pack, const BlendGroupStep& group, int t,
                                      const float* loss_scale) {
  const BlendGroup now = group.resolved();
  double alpha = now.alpha, previous_alpha = 0;
  BlendRates previous{};
  bool has_previous = false;
  if (group.gate) {
    const double* unit = gate_unit(group.gate, group.gate_config.hidden, pack.unit[t] & kUnitMask);
    alpha = unit[kAlpha];
    previous_alpha = unit[kAlphaPrev];
    previous = gate_previous_rates(group.gate);
    has_previous = group.gate[kPrevValid] != 0 && (pack.unit[t] & kHadPrevious);
  }
  return blend_coefficients<R>(now, alpha, double(*pack.step[t]) + 1,
                               loss_scale ? double(*loss_scale) : 1.0,
                               has_previous ? &previous : nullptr, previous_alpha);
}

// Adds the blocks' sums up: one number a unit where a group has one unit, else tensor by tensor.
__device__ void sum_partials(const LaunchPack& pack, const BlendGroupStep& group, const Tail& tail,
                             double* shared) {
  const int threads = int(blockDim.x), rank = int(threadIdx.x), units = group.gate_config.units;
  if (tail.first)
    for (int64_t i = rank; i < int64_t(units) * kBlendSums; i += threads) group.sums[i] = 0;
  __syncthreads();
  const uint32_t chunks = pack.first_block[pack.count - 1] + chunks_of(pack.numel[pack.count - 1]);
  if (units == 1) {
    double x[kBlendSums] = {};
    for (int64_t i = rank; i < chunks; i += threads)
      for (int k = 0; k < kBlendSums; ++k) x[k] += tail.partials[i * kBlendSums + k];
    const double total = block_sums(x, shared);
    if (rank < kBlendSums) group.sums[rank] += total;
    __syncthreads();
    return;
  }
  for (int t = rank / 32; t < pack.count; t += threads / 32) {
    const uint32_t end = t + 1 < pack.count ? pack.first_block[t + 1] : chunks;
    double* out = group.sums + int64_t(pack.unit[t] & kUnitMask) * kBlendSums;
    for (int k = 0; k < kBlendSums; ++k) {
      double x = 0;
      for (uint32_t i = pack.first_block[t] + rank % 32; i < end; i += 32)
        x += tail.partials[int64_t(i) * kBlendSums + k];
      x = warp_sum(x);
      if (rank % 32 == 0) out[k] += x;
    }
  }
  __syncthreads();
}

template <class T, class Work>
__global__ void __launch_bounds__(kThreads)
    blend_kernel(GPU_GRID_CONSTANT(LaunchPack) pack, GPU_GRID_CONSTANT(BlendGroupStep) group,
                 GPU_GRID_CONSTANT(Tail) tail) {
  using R = arithmetic_t<T>;
  __shared__ BlendCoefs<R> coefs;
  __shared__ double correction1, shared[kBlendSums * kThreads / 32];
  if (tail.found_inf && *tail.found_inf != 0) return;

  const int t = tensor_of(pack, blockIdx.x);
  if (threadIdx.x == 0) {
    coefs = coefficients<R>(pack, group, t, tail.loss_scale);
    if (Work::kTakesSums)
      correction1 = bias_correction(group.group.rates.beta1, double(*pack.step[t]) + 1);
  }
  __syncthreads();
  const BlendCoefs<R> c = coefs;
  const Work work(pack, t);
  R sums[kBlendSums] = {};
  const uint32_t chunk = blockIdx.x - pack.first_block[t];
  const int64_t begin = chunk_begin(chunk), end = chunk_end(chunk, pack.numel[t]);
  int64_t i = begin;
  if (pack.unit[t] & kAligned) {
    constexpr int N = kVector<T>;
    const int64_t whole = begin + (end - begin) / N * N;
#pragma unroll 2
    for (i = begin + int64_t(threadIdx.x) * N; i < whole; i += int64_t(kThreads) * N)
      work.template run<Vector<T>, N>(i, c, sums);
    i = whole;
  }
  for (i += threadIdx.x; i < end; i += kThreads) work.template run<One<T>, 1>(i, c, sums);

  if (Work::kTakesSums) {
    double x[kBlendSums];
    for (int k = 0; k < kBlendSums; ++k) x[k] = double(sums[k]);
    double total = block_sums(x, shared);
    if (Work::kCounts) {  // the Adam direction's bias correction, see correct_sums
      if (threadIdx.x == kAA) total /= correction1 * correction1;
      if (threadIdx.x == kGA || threadIdx.x == kDA) total /= correction1;
    }
    if (threadIdx.x < kBlendSums)
      tail.partials[int64_t(blockIdx.x) * kBlendSums + threadIdx.x] = total;
  }
  if (!last_block(tail.ticket)) return;

  if (Work::kTakesSums) sum_partials(pack, group, tail, shared);
  if (Work::kCounts)
    for (int s = int(threadIdx.x); s < pack.count; s += kThreads) *pack.step[s] += 1;
  if (Work::kTakesSums && tail.last && tail.finish) {
    const BlockTeam team;
    if (Work::kCounts)
      gate_finish(group.gate, group.resolved(), group.gate_config, group.sums, team);
    else
      gate_meta_step(group.gate, group.gate_config, group.sums, team);
  }
}

template <class T, class Work>
void launch(const LaunchPack& pack, const BlendGroupStep& group, const Tail& tail, uint32_t blocks,
            cudaStream_t stream) {
  GPU_LAUNCH((blend_kernel<T, Work>), blocks, kThreads, 0, stream, pack, group, tail);
}

template <class T>
void launch_step(const LaunchPack& pack, const BlendGroupStep& group, const Tail& tail,
                 uint32_t blocks, cudaStream_t stream, bool buffer, Meta meta) {
  if (buffer) {
    if (meta == kNoSums)
      return launch<T, Step<T, true, kNoSums>>(pack, group, tail, blocks, stream);
    if (meta == kSums) return launch<T, Step<T, true, kSums>>(pack, group, tail, blocks, stream);
    return launch<T, Step<T, true, kSumsAndDirection>>(pack, group, tail, blocks, stream);
  }
  if (meta == kNoSums) return launch<T, Step<T, false, kNoSums>>(pack, group, tail, blocks, stream);
  if (meta == kSums) return launch<T, Step<T, false, kSums>>(pack, group, tail, blocks, stream);
  launch<T, Step<T, false, kSumsAndDirection>>(pack, group, tail, blocks, stream);
}

template <class T>
void dispatch(const LaunchPack& pack, const BlendGroupStep& group, const Tail& tail,
              uint32_t blocks, cudaStream_t stream, const BlendTensor& kind, bool hyper) {
  if (hyper) return launch<T, Hypergradient<T>>(pack, group, tail, blocks, stream);
  const Meta meta = !group.gate ? kNoSums : kind.has_direction ? kSumsAndDirection : kSums;
  launch_step<T>(pack, group, tail, blocks, stream, kind.has_buffer, meta);
}

bool aligned(const BlendTensor& t) {
  uintptr_t bits = 0;
  for (const void* p : {t.w, t.g, t.m, t.v, t.buffer, t.direction}) bits |= uintptr_t(p);
  return bits % 16 == 0;
}

int run(const BlendStep& step, const Launches& launches, void* stream, bool hyper) {
  LaunchPack pack;
  for (size_t n = 0; n < launches.list.size(); ++n) {
    const Launch& l = launches.list[n];
    pack.count = int(l.rows.size());
    uint32_t chunk = 0;
    for (int i = 0; i < pack.count; ++i) {
      const BlendTensor& t = step.tensors[l.rows[size_t(i)]];
      pack.w[i] = t.w;
      pack.g[i] = t.g;
      pack.m[i] = t.m;
      pack.v[i] = t.v;
      pack.buffer[i] = t.buffer;
      pack.direction[i] = t.direction;
      pack.step[i] = t.step;
      pack.numel[i] = t.numel;
      pack.first_block[i] = chunk;
      pack.unit[i] =
          uint32_t(t.unit) | (t.had_previous ? kHadPrevious : 0u) | (aligned(t) ? kAligned : 0u);
      chunk += chunks_of(t.numel);
    }
    const BlendGroupStep& group = step.groups[l.group];
    const Tail tail{step.loss_scale,
                    step.found_inf,
                    launches.workspace + l.first_partial * kBlendSums,
                    reinterpret_cast<unsigned*>(launches.workspace +
                                                launches.partials * kBlendSums + int64_t(n)),
                    l.first_of_group,
                    l.last_of_group,
                    step.finish};
    const BlendTensor& kind = step.tensors[l.rows[0]];
    const uint32_t blocks = std::max(1u, l.chunks);
    const auto s = static_cast<cudaStream_t>(stream);
    switch (kind.dtype) {
      case DType::f32:
        dispatch<float>(pack, group, tail, blocks, s, kind, hyper);
        break;
      case DType::f64:
        dispatch<double>(pack, group, tail, blocks, s, kind, hyper);
        break;
      case DType::bf16:
        dispatch<bfloat16>(pack, group, tail, blocks, s, kind, hyper);
        break;
      default:
        dispatch<float16>(pack, group, tail, blocks, s, kind, hyper);
    }
    if (const cudaError_t error = cudaGetLastError()) return int(error);
  }
  return 0;
}

}  // namespace

Launches::Launches(const std::vector<BlendTensor>& tensors) {
  using Key = std::tuple<int32_t, int, bool, bool>;
  std::map<Key, std::vector<uint32_t>> kinds;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const BlendTensor& t = tensors[i];
    kinds[{t.group, int(t.dtype), t.has_buffer, t.has_direction}].push_back(uint32_t(i));
  }
  for (const auto& kind : kinds) {
    const std::vector<uint32_t>& rows = kind.second;
    const int32_t group = std::get<0>(kind.first);
    uint64_t chunks = 0;
    std::vector<uint32_t> some;
    const auto close = [&] {
      const bool first = list.empty() || list.back().group != group;
      if (!first) list.back().last_of_group = false;
      list.push_back({some, group, true, first, uint32_t(chunks), partials});
      partials += int64_t(std::max<uint64_t>(1, chunks));
      some.clear();
      chunks = 0;
    };
    for (uint32_t row : rows) {
      const uint64_t mine = chunks_of(tensors[row].numel);
      // 2^31 - 1 blocks are the most of a launch; one tensor of 2^45 elements does not exist.
      if (int(some.size()) == LaunchPack::kMost || chunks + mine > 0x7fffffffu) close();
      some.push_back(row);
      chunks += mine;
    }
    close();
  }
}

int64_t Launches::workspace_size() const { return partials * kBlendSums + int64_t(list.size()); }

int blend_step(const BlendStep& step, const Launches& launches, void* stream) {
  return run(step, launches, stream, false);
}
int blend_hypergradient(const BlendStep& step, const Launches& launches, void* stream) {
  return run(step, launches, stream, true);
}

int device_count(int* count) {
  *count = 0;
  return int(cudaGetDeviceCount(count));
}
const char* error_text(int error) { return cudaGetErrorString(cudaError_t(error)); }

}  // namespace unstuck::cuda
