// The MLP rule's step on CUDA: one launch for all tensors of a parameter group and one pass over
// memory, see math/learned.hpp for the formula. A block steps a piece of one tensor, after it has
// asked the tensor network itself, which costs less than a launch; the last block of a tensor to
// finish adds the sums of its blocks up, in their order, and renews statistics and step count.
//
// The floor is memory: in float32 five arrays are read and four written, 36 bytes a parameter, at
// the bandwidth of the device.
#include "cuda/learned.hpp"

#include "core/block.hpp"
#include "core/chunk.hpp"
#include "core/half.hpp"
#include "cuda/lanes.hpp"
#include "cuda/pack.hpp"

namespace unstuck::cuda {

// What the formula asks of numbers, for several of them.
template <class R, int N>
UNSTUCK_HD Lanes<R, N> cut_above(const Lanes<R, N>& a) {
  return lanes<R, N>([&](int k) { return learned::cut_above(a.x[k]); });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> cut(const Lanes<R, N>& a) {
  return lanes<R, N>([&](int k) { return learned::cut(a.x[k]); });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> cut_far(const Lanes<R, N>& a) {
  return lanes<R, N>([&](int k) { return learned::cut_far(a.x[k]); });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> positive_part(const Lanes<R, N>& a) {
  return lanes<R, N>([&](int k) { return learned::positive_part(a.x[k]); });
}
template <class R, int N>
UNSTUCK_HD Lanes<R, N> absolute(const Lanes<R, N>& a) {
  return lanes<R, N>([&](int k) { return learned::absolute(a.x[k]); });
}

namespace {

using learned::kSums;
using learned::Sums;

constexpr int kThreads = 256;
constexpr int64_t kPiece = 4096;  // elements a block

// Everything about the tensors of one launch; passed by value, so that a step needs no copy to the
// device and a CUDA graph holds all of it.
template <int Bytes>
struct LearnedPack {
  static constexpr int kTensorBytes =
      7 * sizeof(void*) + sizeof(int64_t) + learned::kTraits * sizeof(double) + 8;
  static constexpr int kMost = Bytes / kTensorBytes;
  void *w[kMost], *m[kMost], *slow[kMost], *v[kMost], *stats[kMost];
  const void* g[kMost];
  float* step[kMost];
  int64_t numel[kMost];
  double traits[kMost][learned::kTraits];
  uint32_t first_block[kMost];  // of one student
  uint32_t aligned[kMost];
  int count;
  uint32_t blocks;  // of one student
};

struct LearnedCall {
  LearnedGroup group;
  const float* thetas;
  learned::Net net;
  const float *loss_scale, *found_inf;
  double* partials;   // [students, blocks, kSums]
  unsigned* tickets;  // [students, tensors]
  int64_t stride;     // from one student to the next
};
// Leaves room for the pack's own count.
using Pack = LearnedPack<kParameterBytes - int(sizeof(LearnedCall)) - 64>;
static_assert(sizeof(Pack) + sizeof(LearnedCall) <= kParameterBytes,
              "a launch takes more arguments than the device accepts");

uint32_t blocks_of(const LearnedTensor& t) {  // an empty tensor counts its steps too
  return std::max(1u, chunks_of(t.numel, kPiece));
}

// The networks as the coordinates of one tensor need them.
template <class R>
struct Network {
  learned::Coefs<R> coefs;
  R in[learned::kMostHidden * learned::kInputs], mix[learned::kMostHidden * learned::kDirections];
};

template <class T>
__device__ double stat_of(const Pack& pack, int t, int64_t student, int i) {
  return double(widen(static_cast<const T*>(pack.stats[t])[student * learned::kStats + i]));
}

template <class T, class R>
__device__ void prepare(const Pack& pack, const LearnedCall& call, int t, int64_t student,
                        Network<R>& k) {
  __shared__ double stats[learned::kStats], inputs[learned::kControlInputs];
  __shared__ double units[learned::kMostControl];
  const learned::Net& net = call.net;
  const int rank = int(threadIdx.x);
  const float* theta = call.thetas + student * net.size();
  const double count = double(pack.step[t][student]) + 1;
  if (rank < learned::kStats) stats[rank] = stat_of<T>(pack, t, student, rank);
  for (int i = rank; i < net.hidden * learned::kInputs; i += kThreads)
    k.in[i] = R(theta[net.in_weight() + i]);
  for (int i = rank; i < net.hidden * learned::kDirections; i += kThreads)
    k.mix[i] = R(theta[net.mix_weight() + i]);
  __syncthreads();
  if (rank < learned::kControlInputs)
    inputs[rank] = learned::control_input(rank, count, call.group.num_steps, pack.traits[t], stats);
  if (rank == kThreads - 1)  // of another warp
    learned::set_rates(k.coefs, net, count, call.group.rate(), call.group.weight_decay,
                       call.group.maximize, call.loss_scale ? double(*call.loss_scale) : 1.0,
                       stats);
  __syncthreads();
  for (int j = rank; j < net.control; j += kThreads)
    units[j] = learned::control_unit(theta, net, j, inputs);
  __syncthreads();
  for (int o = rank; o < net.outputs(); o += kThreads)
    learned::place_output(k.coefs, net, o, learned::control_output(theta, net, o, units),
                          learned::rest(count, call.group.num_steps));
  __syncthreads();
}

template <class T>
struct Memory {
  T *w, *m, *slow, *v;
  const T* g;
};

template <class T, int N>
struct alignas(N * sizeof(T)) Elements {
  T x[N];
};
template <int N, class T>
__device__ Lanes<arithmetic_t<T>, N> load(const T* from) {
  const auto x = *reinterpret_cast<const Elements<T, N>*>(from);
  return lanes<arithmetic_t<T>, N>([&](int k) { return widen(x.x[k]); });
}
template <int N, class T>
__device__ void store(T* to, const Lanes<arithmetic_t<T>, N>& from) {
  Elements<T, N> x;
#pragma unroll
  for (int k = 0; k < N; ++k) x.x[k] = narrow<T>(from.x[k]);
  *reinterpret_cast<Elements<T, N>*>(to) = x;
}

template <int N, class T, class R>
__device__ void step_elements(const Memory<T>& at, int64_t i, const Network<R>& k, Sums<R>& sums) {
  auto w = load<N>(at.w + i), m = load<N>(at.m + i), slow = load<N>(at.slow + i);
  auto v = load<N>(at.v + i);
  const auto now = learned::move_moments(load<N>(at.g + i), m, slow, v, k.coefs);
  store<N>(at.m + i, m);
  store<N>(at.slow + i, slow);
  store<N>(at.v + i, v);
  learned::move_parameter(w, now, k.coefs, k.in, k.mix, sums);
  store<N>(at.w + i, w);
}

template <class T>
__device__ void finish(const Pack& pack, int t, int64_t student, const double* totals) {
  double stats[learned::kStats];
  for (int i = 0; i < learned::kStats; ++i) stats[i] = stat_of<T>(pack, t, student, i);
  learned::update_stats(
      stats, {totals[0], totals[1], totals[2], totals[3], totals[4], totals[5], totals[6]},
      double(pack.numel[t]), double(pack.step[t][student]) + 1);
  T* const to = static_cast<T*>(pack.stats[t]) + student * learned::kStats;
  for (int i = 0; i < learned::kStats; ++i) to[i] = narrow<T>(arithmetic_t<T>(stats[i]));
  pack.step[t][student] += 1;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    learned_kernel(GPU_GRID_CONSTANT(Pack) pack, GPU_GRID_CONSTANT(LearnedCall) call) {
  using R = arithmetic_t<T>;
  __shared__ Network<R> network;
  __shared__ double shared[kSums * kThreads / 32], totals[kSums];
  if (call.found_inf && *call.found_inf != 0) return;

  const uint32_t block = blockIdx.x % pack.blocks;
  const int64_t student = blockIdx.x / pack.blocks;
  const int t = tensor_of(pack, block);
  const uint32_t first = pack.first_block[t];
  const uint32_t past = t + 1 < pack.count ? pack.first_block[t + 1] : pack.blocks;
  prepare<T>(pack, call, t, student, network);

  const int64_t here = student * call.stride, kept = student * pack.numel[t];
  const Memory<T> at{(T*)pack.w[t] + here, (T*)pack.m[t] + kept, (T*)pack.slow[t] + kept,
                     (T*)pack.v[t] + kept, (const T*)pack.g[t] + here};
  Sums<R> sums{};
  const int64_t begin = chunk_begin(block - first, kPiece);
  const int64_t end = chunk_end(block - first, pack.numel[t], kPiece);
  int64_t i = begin;
  if (pack.aligned[t]) {
    constexpr int N = sizeof(T) == 8 ? 2 : 4;
    const int64_t whole = begin + (end - begin) / N * N;
    for (i = begin + int64_t(threadIdx.x) * N; i < whole; i += int64_t(kThreads) * N)
      step_elements<N>(at, i, network, sums);
    i = whole;
  }
  for (i += threadIdx.x; i < end; i += kThreads) step_elements<1>(at, i, network, sums);

  const double mine[kSums] = {double(sums.xy), double(sums.xx), double(sums.yy), double(sums.aa),
                              double(sums.uu), double(sums.ww), double(sums.vv)};
  const double sum = block_sums(mine, shared);
  double* const partials = call.partials + (student * pack.blocks + first) * kSums;
  if (threadIdx.x < kSums) partials[int64_t(block - first) * kSums + threadIdx.x] = sum;
  if (!last_block(call.tickets + student * pack.count + t, past - first)) return;

  double all[kSums] = {};
  for (uint32_t b = threadIdx.x; b < past - first; b += kThreads)
    for (int s = 0; s < kSums; ++s) all[s] += partials[int64_t(b) * kSums + s];
  const double total = block_sums(all, shared);
  if (threadIdx.x < kSums) totals[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x == 0) finish<T>(pack, t, student, totals);
}

template <class T>
void launch(const Pack& pack, const LearnedCall& call, uint32_t blocks, cudaStream_t stream) {
  GPU_LAUNCH((learned_kernel<T>), blocks, kThreads, 0, stream, pack, call);
}

// Whether several elements can be read at once, in every student's part.
bool is_aligned(const LearnedTensor& t) {
  const uintptr_t bits =
      uintptr_t(t.w) | uintptr_t(t.g) | uintptr_t(t.m) | uintptr_t(t.slow) | uintptr_t(t.v);
  const int64_t steps = t.students > 1 ? (t.stride | t.numel) * size_of(t.dtype) : 0;
  return (bits | uintptr_t(steps)) % 16 == 0;
}

}  // namespace

LearnedLaunches::LearnedLaunches(const std::vector<LearnedTensor>& tensors) {
  const uint64_t students = tensors.empty() ? 0 : uint64_t(tensors[0].students);
  list = launches_of(tensors, Pack::kMost,
                     [&](const LearnedTensor& t) { return students * blocks_of(t); });
  rows = int64_t(students) * int64_t(tensors.size());
  for (const TensorLaunch& l : list) blocks += l.blocks;
}

int64_t LearnedLaunches::workspace_size() const { return blocks * kSums + (rows + 1) / 2; }

int learned_step(const LearnedStep& step, const LearnedLaunches& launches, void* stream) {
  if (launches.rows == 0) return 0;
  auto* tickets = reinterpret_cast<unsigned*>(launches.workspace + launches.blocks * kSums);
  Pack pack;
  for (const TensorLaunch& l : launches.list) {
    const LearnedTensor& kind = step.tensors[l.rows[0]];
    pack.count = int(l.rows.size());
    pack.blocks = 0;
    for (int i = 0; i < pack.count; ++i) {
      const LearnedTensor& t = step.tensors[l.rows[size_t(i)]];
      pack.w[i] = t.w;
      pack.g[i] = t.g;
      pack.m[i] = t.m;
      pack.slow[i] = t.slow;
      pack.v[i] = t.v;
      pack.stats[i] = t.stats;
      pack.step[i] = t.step;
      pack.numel[i] = t.numel;
      std::copy_n(t.traits, learned::kTraits, pack.traits[i]);
      pack.first_block[i] = pack.blocks;
      pack.aligned[i] = is_aligned(t);
      pack.blocks += blocks_of(t);
    }
    const LearnedCall call{step.groups[kind.group],
                           step.thetas,
                           step.net,
                           step.loss_scale,
                           step.found_inf,
                           launches.workspace + l.first_block * kSums,
                           tickets,
                           kind.stride};
    const auto s = static_cast<cudaStream_t>(stream);
    switch (kind.dtype) {
      case DType::f32:
        launch<float>(pack, call, l.blocks, s);
        break;
      case DType::f64:
        launch<double>(pack, call, l.blocks, s);
        break;
      case DType::bf16:
        launch<bfloat16>(pack, call, l.blocks, s);
        break;
      default:
        launch<float16>(pack, call, l.blocks, s);
    }
    if (const cudaError_t error = cudaGetLastError()) return int(error);
    tickets += int64_t(pack.count) * kind.students;
  }
  return 0;
}

}  // namespace unstuck::cuda
