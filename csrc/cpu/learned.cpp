// The MLP rule's step on the CPU: one pass over memory, see math/learned.hpp for the formula. The
// statistics that the next step looks at are added up on the way, piece by piece, so that they do
// not depend on threads.
//
// A register's root and quotient take as long as all that is mixed for it, and processors do not
// look that far ahead: they are asked for one register before they are needed.
//
// This file is compiled with contraction, and for finite numbers without signed zeros: then cutting
// is one instruction. NaN still comes through, by way of the directions, which are not cut.
#include "cpu/vector.hpp"
// after it
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/half.hpp"
#include "cpu/learned.hpp"

namespace unstuck::cpu {

namespace {

using learned::Coefs;
using learned::Sums;

// One piece of one student's tensor.
struct Job {
  const LearnedTensor* t;
  int64_t offset, state_offset, length;
  const Coefs<double>* coefs;
  const float *in, *mix;
  Sums<double>* sums;
};

constexpr int64_t kFold = 1024;  // elements whose sums are kept in registers
constexpr int64_t kStage = 256;
constexpr int64_t kAhead = 256;  // elements

template <class T>
struct Memory {
  T *w, *m, *slow, *v;
  const T* g;
};

template <class R>
struct Weights {
  Coefs<R> c;
  const R *in, *mix;
};

template <class R>
using Vector = std::conditional_t<sizeof(R) == 4, Floats, Doubles>;
template <class R>
constexpr int64_t kWidth = 64 / int64_t(sizeof(R));

template <class R>
UNSTUCK_INLINE Vector<R> load(const R* p) {
  Vector<R> x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
template <class R>
UNSTUCK_INLINE void store(R* p, Vector<R> x) {
  std::memcpy(p, &x, sizeof x);
}

template <class R>
UNSTUCK_INLINE learned::Moved<Vector<R>> moments_at(const Memory<R>& at, int64_t i,
                                                    const Weights<R>& k) {
  Vector<R> m = load<R>(at.m + i), slow = load<R>(at.slow + i), v = load<R>(at.v + i);
  const auto now = learned::move_moments(load<R>(at.g + i), m, slow, v, k.c);
  store(at.m + i, m);
  store(at.slow + i, slow);
  store(at.v + i, v);
  return now;
}
template <class R>
UNSTUCK_INLINE void parameter_at(const Memory<R>& at, int64_t i,
                                 const learned::Moved<Vector<R>>& now, const Weights<R>& k,
                                 Sums<Vector<R>>& sums) {
  Vector<R> w = load<R>(at.w + i);
  learned::move_parameter(w, now, k.c, k.in, k.mix, sums);
  store(at.w + i, w);
}

template <class R>
UNSTUCK_INLINE void prefetch(const Memory<R>& at, int64_t i) {
  __builtin_prefetch(at.w + i, 1);
  __builtin_prefetch(at.m + i, 1);
  __builtin_prefetch(at.slow + i, 1);
  __builtin_prefetch(at.v + i, 1);
  __builtin_prefetch(at.g + i, 0);
}

// Where the last elements are fewer than a register holds, zeros go along, which move nothing and
// add nothing to a sum.
template <class R>
UNSTUCK_INLINE void last_elements(const Memory<R>& at, int64_t i, int64_t n, const Weights<R>& k,
                                  Sums<Vector<R>>& sums) {
  constexpr int64_t W = kWidth<R>;
  R w[W] = {}, m[W] = {}, slow[W] = {}, v[W] = {}, g[W] = {};
  R* const from[] = {at.w, at.m, at.slow, at.v};
  R* const to[] = {w, m, slow, v};
  for (int a = 0; a < 4; ++a) std::copy_n(from[a] + i, n, to[a]);
  std::copy_n(at.g + i, n, g);
  const Memory<R> copy{w, m, slow, v, g};
  parameter_at(copy, 0, moments_at(copy, 0, k), k, sums);
  for (int a = 0; a < 4; ++a) std::copy_n(to[a], n, from[a] + i);
}

template <class R>
UNSTUCK_INLINE double added(Vector<R> x) {
  double sum = 0;
  for (int64_t l = 0; l < kWidth<R>; ++l) sum += double(x[l]);
  return sum;
}

template <class R>
UNSTUCK_INLINE void run(const Memory<R>& at, int64_t length, const Weights<R>& k,
                        Sums<double>& total) {
  constexpr int64_t W = kWidth<R>;
  for (int64_t start = 0; start < length; start += kFold) {
    const int64_t end = std::min(length, start + kFold), whole = start + (end - start) / W * W;
    Sums<Vector<R>> sums{};
    if (start < whole) {
      auto now = moments_at(at, start, k);
      for (int64_t i = start; i < whole; i += W) {
        prefetch(at, i + kAhead);
        const auto next = i + W < whole ? moments_at(at, i + W, k) : now;
        parameter_at(at, i, now, k, sums);
        now = next;
      }
    }
    if (whole < end) last_elements(at, whole, end - whole, k, sums);
    total.xy += added<R>(sums.xy);
    total.xx += added<R>(sums.xx);
    total.yy += added<R>(sums.yy);
    total.aa += added<R>(sums.aa);
    total.uu += added<R>(sums.uu);
    total.ww += added<R>(sums.ww);
    total.vv += added<R>(sums.vv);
  }
}

template <class T>
UNSTUCK_INLINE void to_float(const T* from, float* to, int64_t n) {
  if constexpr (std::is_same_v<T, float16>)
    widen_all(from, to, n);
  else
    for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
}
template <class T>
UNSTUCK_INLINE void to_half(const float* from, T* to, int64_t n) {
  if constexpr (std::is_same_v<T, float16>)
    narrow_all(from, to, n);
  else
    for (int64_t i = 0; i < n; ++i) to[i] = narrow<T>(from[i]);
}

// 16-bit tensors go through float32 copies that stay in the first-level cache.
template <class T>
UNSTUCK_INLINE void run_staged(const Memory<T>& at, int64_t length, const Weights<float>& k,
                               Sums<double>& total) {
  alignas(64) float w[kStage], m[kStage], slow[kStage], v[kStage], g[kStage];
  T* const home[] = {at.w, at.m, at.slow, at.v};
  float* const copy[] = {w, m, slow, v};
  for (int64_t start = 0; start < length; start += kStage) {
    const int64_t n = std::min(kStage, length - start);
    for (int a = 0; a < 4; ++a) to_float(home[a] + start, copy[a], n);
    to_float(at.g + start, g, n);
    run<float>({w, m, slow, v, g}, n, k, total);
    for (int a = 0; a < 4; ++a) to_half(copy[a], home[a] + start, n);
  }
}

template <class R>
UNSTUCK_INLINE Coefs<R> narrowed(const Coefs<double>& c) {
  Coefs<R> to;
  to.grad_scale = R(c.grad_scale);
  to.step = R(c.step);
  to.decay = R(c.decay);
  to.scale = R(c.scale);
  to.fade = R(c.fade);
  to.m_free = R(c.m_free);
  to.slow_free = R(c.slow_free);
  to.v_free = R(c.v_free);
  to.per_rms = R(c.per_rms);
  to.m_even = R(c.m_even);
  to.hidden = c.hidden;
  for (int i = 0; i < learned::kDirections; ++i) to.mix_bias[i] = R(c.mix_bias[i]);
  for (int i = 0; i < c.hidden; ++i) to.hidden_bias[i] = R(c.hidden_bias[i]);
  return to;
}

template <class T>
UNSTUCK_INLINE void step(const Job& job) {
  using R = arithmetic_t<T>;
  const auto at = [&](void* p, int64_t offset) { return static_cast<T*>(p) + offset; };
  const auto kept = [&](void* p) { return at(p, job.state_offset); };
  const LearnedTensor& t = *job.t;
  const Memory<T> memory{at(t.w, job.offset), kept(t.m), kept(t.slow), kept(t.v),
                         at(t.g, job.offset)};
  const int hidden = job.coefs->hidden;
  R in[learned::kMostHidden * learned::kInputs], mix[learned::kMostHidden * learned::kDirections];
  for (int i = 0; i < hidden * learned::kInputs; ++i) in[i] = R(job.in[i]);
  for (int i = 0; i < hidden * learned::kDirections; ++i) mix[i] = R(job.mix[i]);
  const Weights<R> k{narrowed<R>(*job.coefs), in, mix};
  *job.sums = {};
  if constexpr (std::is_same_v<T, R>)
    run(memory, job.length, k, *job.sums);
  else
    run_staged(memory, job.length, k, *job.sums);
}

}  // namespace

// One compiled function a type, so that the loader can choose its instruction set.
namespace entry {
UNSTUCK_CLONES void learned_float(const Job& j) { step<float>(j); }
UNSTUCK_CLONES void learned_double(const Job& j) { step<double>(j); }
UNSTUCK_CLONES void learned_bfloat16(const Job& j) { step<bfloat16>(j); }
UNSTUCK_CLONES void learned_float16(const Job& j) { step<float16>(j); }
constexpr void (*learned[])(const Job&) = {learned_float, learned_double, learned_bfloat16,
                                           learned_float16};
}  // namespace entry

namespace {

template <class T>
void read_stats(const void* from, int64_t at, double* to) {
  for (int i = 0; i < learned::kStats; ++i)
    to[i] = double(widen(static_cast<const T*>(from)[at + i]));
}
template <class T>
void write_stats(void* to, int64_t at, const double* from) {
  for (int i = 0; i < learned::kStats; ++i)
    static_cast<T*>(to)[at + i] = narrow<T>(arithmetic_t<T>(from[i]));
}
constexpr void (*kReadStats[])(const void*, int64_t, double*) = {
    read_stats<float>, read_stats<double>, read_stats<bfloat16>, read_stats<float16>};
constexpr void (*kWriteStats[])(void*, int64_t, const double*) = {
    write_stats<float>, write_stats<double>, write_stats<bfloat16>, write_stats<float16>};

// Asks the tensor network about one tensor of one student.
void prepare(const LearnedStep& step, int64_t student, const LearnedTensor& t, Coefs<double>& c) {
  const LearnedGroup& group = step.groups[t.group];
  const float* theta = step.thetas + student * step.net.size();
  double stats[learned::kStats];
  kReadStats[int(t.dtype)](t.stats, student * learned::kStats, stats);
  const double count = double(t.step[student]) + 1;
  learned::set_rates(c, step.net, count, group.rate(), group.weight_decay, group.maximize,
                     step.loss_scale ? double(*step.loss_scale) : 1.0, stats);
  double inputs[learned::kControlInputs], units[learned::kMostControl];
  for (int i = 0; i < learned::kControlInputs; ++i)
    inputs[i] = learned::control_input(i, count, group.num_steps, t.traits, stats);
  for (int j = 0; j < step.net.control; ++j)
    units[j] = learned::control_unit(theta, step.net, j, inputs);
  const double rest = learned::rest(count, group.num_steps);
  for (int k = 0; k < step.net.outputs(); ++k)
    learned::place_output(c, step.net, k, learned::control_output(theta, step.net, k, units), rest);
}

void finish(const LearnedTensor& t, int64_t student, const Sums<double>& sums) {
  double stats[learned::kStats];
  kReadStats[int(t.dtype)](t.stats, student * learned::kStats, stats);
  learned::update_stats(stats, sums, double(t.numel), double(t.step[student]) + 1);
  kWriteStats[int(t.dtype)](t.stats, student * learned::kStats, stats);
  t.step[student] += 1;
}

constexpr int64_t kPiece = 8192;  // elements a task: a small network's are shared evenly, too

// A coordinate costs as much as so many of Adam's, a tensor as so many coordinates.
constexpr int64_t kCost = 4, kTensorCost = 500;

}  // namespace

LearnedWork::LearnedWork(const std::vector<LearnedTensor>& tensors) {
  const int64_t students = tensors.empty() ? 0 : tensors[0].students;
  for (int64_t k = 0; k < students; ++k)
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto row = uint32_t(uint64_t(k) * tensors.size() + i);
      first.push_back(pieces.size());
      const int64_t numel = tensors[i].numel;
      for (uint32_t c = 0; c < chunks_of(numel, kPiece); ++c) {
        const int64_t begin = chunk_begin(c, kPiece), end = chunk_end(c, numel, kPiece);
        pieces.push_back({row, begin, end - begin});
      }
    }
  first.push_back(pieces.size());
  coefs.resize(first.size() - 1);
  sums.resize(pieces.size());
}

void learned_step(const LearnedStep& step, LearnedWork& work, int threads) {
  if (step.found_inf && *step.found_inf != 0) return;
  const auto rows = int64_t(work.coefs.size()), tensors = int64_t(step.tensor_count);
  const int64_t size = step.net.size();
  parallel_for(rows, rows * kTensorCost, threads, [&](int64_t r) {
    prepare(step, r / tensors, step.tensors[r % tensors], work.coefs[size_t(r)]);
  });
  int64_t elements = 0;
  for (int64_t i = 0; i < tensors; ++i)
    elements += step.tensors[i].numel * step.tensors[i].students;
  parallel_for(int64_t(work.pieces.size()), elements * kCost, threads, [&](int64_t i) {
    const LearnedWork::Piece& piece = work.pieces[size_t(i)];
    const LearnedTensor& t = step.tensors[int64_t(piece.row) % tensors];
    const int64_t student = int64_t(piece.row) / tensors;
    const float* theta = step.thetas + student * size;
    entry::learned[int(t.dtype)]({&t, student * t.stride + piece.begin,
                                  student * t.numel + piece.begin, piece.length,
                                  &work.coefs[piece.row], theta + step.net.in_weight(),
                                  theta + step.net.mix_weight(), &work.sums[size_t(i)]});
  });
  for (int64_t r = 0; r < rows; ++r) {
    Sums<double> total{};
    for (size_t i = work.first[size_t(r)]; i < work.first[size_t(r) + 1]; ++i) {
      const Sums<double>& s = work.sums[i];
      total.xy += s.xy;
      total.xx += s.xx;
      total.yy += s.yy;
      total.aa += s.aa;
      total.uu += s.uu;
      total.ww += s.ww;
      total.vv += s.vv;
    }
    finish(step.tensors[r % tensors], r / tensors, total);
  }
}

}  // namespace unstuck::cpu
