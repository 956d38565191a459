// The blend step on the CPU: one pass over memory, see math/blend.hpp for the formula.
#include "cpu/blend.hpp"

#include <algorithm>
#include <type_traits>

#include "cpu/half.hpp"
#include "cpu/lanes.hpp"

namespace unstuck::cpu {

namespace {

enum Meta { kNoSums, kSums, kSumsAndDirection };

// One chunk of one tensor.
struct Job {
  const BlendTensor* t;
  int64_t offset, length;
  const BlendCoefs<double>* coefs;
  double* sums;  // [kBlendSums]
};

template <class R>
BlendCoefs<R> convert(const BlendCoefs<double>& c) {
  return {R(c.grad_scale),
          R(c.l2),
          R(c.keep),
          R(c.beta2),
          R(c.one_minus_beta1),
          R(c.one_minus_beta2),
          R(c.rsqrt_correction2),
          R(c.eps),
          R(c.adam_step),
          R(c.momentum),
          R(c.fresh),
          R(c.unshare),
          R(c.from_grad),
          R(c.from_buffer),
          R(c.sgd_step),
          R(c.prev_rsqrt_correction2),
          R(c.prev_eps),
          R(c.prev_adam),
          R(c.prev_sgd),
          R(c.prev_param)};
}

constexpr int64_t kStage = 256;
constexpr int64_t kAhead = 256;  // elements; measured: without it the sums cost 6 % more

template <class T, bool HasBuffer, Meta meta>
struct Pass {
  using R = arithmetic_t<T>;
  T* __restrict w, * __restrict m, * __restrict v, * __restrict buffer, * __restrict direction;
  const T* __restrict g;
  BlendCoefs<R> c;

  explicit Pass(const Job& job) : c(convert<R>(*job.coefs)) {
    const auto at = [&](void* p) { return p ? static_cast<T*>(p) + job.offset : nullptr; };
    w = at(job.t->w);
    g = at(job.t->g);
    m = at(job.t->m);
    v = at(job.t->v);
    buffer = at(job.t->buffer);
    direction = at(job.t->direction);
  }

  UNSTUCK_INLINE void prefetch(int64_t i) const {
    __builtin_prefetch(w + i, 1);
    __builtin_prefetch(m + i, 1);
    __builtin_prefetch(v + i, 1);
    __builtin_prefetch(g + i, 0);
    if constexpr (HasBuffer) __builtin_prefetch(buffer + i, 1);
  }

  UNSTUCK_INLINE void element(int64_t i, Lanes<R>* lanes, int64_t l) const {
    R wi = widen(w[i]), mi = widen(m[i]), vi = widen(v[i]), bi = 0, gi, ai, di, difference = 0;
    if constexpr (HasBuffer) bi = widen(buffer[i]);
    if constexpr (meta != kNoSums) {
      R d = HasBuffer ? bi : mi * c.unshare;
      if constexpr (meta == kSumsAndDirection) d = widen(direction[i]);
      difference = previous_difference(wi, mi, vi, d, c);
    }
    blend_element<HasBuffer>(wi, R(widen(g[i])), mi, vi, bi, gi, ai, di, c);
    w[i] = narrow<T>(wi);
    m[i] = narrow<T>(mi);
    v[i] = narrow<T>(vi);
    if constexpr (HasBuffer) buffer[i] = narrow<T>(bi);
    if constexpr (meta == kSumsAndDirection) direction[i] = narrow<T>(di);
    if constexpr (meta != kNoSums) lanes->add(l, gi, di, ai, difference);
  }
};

template <class T, bool HasBuffer, Meta meta>
UNSTUCK_INLINE void run(const Job& job) {
  using R = arithmetic_t<T>;
  const Pass<T, HasBuffer, meta> pass(job);
  if constexpr (meta == kNoSums) {
#pragma omp simd
    for (int64_t i = 0; i < job.length; ++i) pass.element(i, nullptr, 0);
  } else {
    constexpr int64_t W = Lanes<R>::W;
    double total[kBlendSums] = {};
    for (int64_t start = 0; start < job.length; start += kFold) {
      const int64_t end = std::min(job.length, start + kFold);
      const int64_t whole = start + (end - start) / W * W;
      Lanes<R> lanes;
      for (int64_t i = start; i < whole; i += W) {
        pass.prefetch(i + kAhead);
#pragma omp simd
        for (int64_t l = 0; l < W; ++l) pass.element(i + l, &lanes, l);
      }
      for (int64_t i = whole; i < end; ++i) pass.element(i, &lanes, i - whole);
      lanes.fold(total);
    }
    for (int k = 0; k < kBlendSums; ++k) job.sums[k] = total[k];
  }
}

UNSTUCK_INLINE void to_float(const float16* from, float* to, int64_t n) { widen_all(from, to, n); }
UNSTUCK_INLINE void to_half(const float* from, float16* to, int64_t n) { narrow_all(from, to, n); }
UNSTUCK_INLINE void to_float(const bfloat16* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
}
UNSTUCK_INLINE void to_half(const float* from, bfloat16* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = narrow<bfloat16>(from[i]);
}

// 16-bit tensors go through float32 copies of kStage elements, which stay in the first-level cache:
// conversions and step then each vectorise at full width.
template <class T>
struct Staged {
  static constexpr int kArrays = 6;
  alignas(64) float memory[kArrays][kStage];
  BlendTensor tensor{};
  T* home[kArrays];
  int64_t length = 0;

  UNSTUCK_INLINE Staged(const Job& job, int64_t start, int64_t n) : length(n) {
    void* const from[kArrays] = {job.t->w,      job.t->m,         job.t->v,
                                 job.t->buffer, job.t->direction, job.t->g};
    void** const to[kArrays] = {&tensor.w,      &tensor.m,         &tensor.v,
                                &tensor.buffer, &tensor.direction, &tensor.g};
    for (int k = 0; k < kArrays; ++k) {
      home[k] = from[k] ? static_cast<T*>(from[k]) + job.offset + start : nullptr;
      if (!home[k]) continue;
      to_float(home[k], memory[k], n);
      *to[k] = memory[k];
    }
  }
  UNSTUCK_INLINE void write_back() const {  // all but the gradient
    for (int k = 0; k < kArrays - 1; ++k)
      if (home[k]) to_half(memory[k], home[k], length);
  }
};

template <class T, bool HasBuffer, Meta meta>
UNSTUCK_INLINE void run_staged(const Job& job) {
  double total[kBlendSums] = {}, sums[kBlendSums];
  for (int64_t start = 0; start < job.length; start += kStage) {
    Staged<T> staged(job, start, std::min(kStage, job.length - start));
    run<float, HasBuffer, meta>({&staged.tensor, 0, staged.length, job.coefs, sums});
    staged.write_back();
    if constexpr (meta != kNoSums)
      for (int k = 0; k < kBlendSums; ++k) total[k] += sums[k];
  }
  if constexpr (meta != kNoSums)
    for (int k = 0; k < kBlendSums; ++k) job.sums[k] = total[k];
}

template <class T, bool HasBuffer, Meta meta>
UNSTUCK_INLINE void run_stored(const Job& job) {
  // bfloat16 without sums converts in so few operations that one loop keeps more memory in flight.
  if constexpr (std::is_same_v<T, float16> || (std::is_same_v<T, bfloat16> && meta != kNoSums))
    run_staged<T, HasBuffer, meta>(job);
  else
    run<T, HasBuffer, meta>(job);
}

// The sums kGG and kHyper of another gradient at the state as it is; nothing is written.
template <class T>
UNSTUCK_INLINE void run_hypergradient(const Job& job) {
  using R = arithmetic_t<T>;
  constexpr int64_t W = Lanes<R>::W;
  const Pass<T, true, kSums> pass(job);
  const T* kept = pass.direction ? pass.direction : pass.buffer;
  double gg = 0, hyper = 0;
  for (int64_t start = 0; start < job.length; start += kFold) {
    const int64_t end = std::min(job.length, start + kFold);
    R square[W] = {}, inner[W] = {};
    for (int64_t i = start; i < end; i += W) {
      const int64_t n = std::min(W, end - i);
#pragma omp simd
      for (int64_t l = 0; l < n; ++l) {
        const R m = widen(pass.m[i + l]), g = R(widen(pass.g[i + l])) * pass.c.grad_scale;
        const R d = kept ? R(widen(kept[i + l])) : m * pass.c.unshare;
        square[l] += g * g;
        inner[l] +=
            g * previous_difference(R(widen(pass.w[i + l])), m, R(widen(pass.v[i + l])), d, pass.c);
      }
    }
    for (int64_t l = 0; l < W; ++l) gg += double(square[l]), hyper += double(inner[l]);
  }
  for (int k = 0; k < kBlendSums; ++k) job.sums[k] = 0;
  job.sums[kGG] = gg;
  job.sums[kHyper] = hyper;
}

}  // namespace

// One compiled function a case, so that the loader can choose its instruction set.
namespace entry {
using Function = void (*)(const Job&);
#define UNSTUCK_ENTRIES(T)                                                                   \
  UNSTUCK_CLONES void T##_shared(const Job& j) { run_stored<T, false, kNoSums>(j); }         \
  UNSTUCK_CLONES void T##_shared_sums(const Job& j) { run_stored<T, false, kSums>(j); }      \
  UNSTUCK_CLONES void T##_shared_direction(const Job& j) {                                   \
    run_stored<T, false, kSumsAndDirection>(j);                                              \
  }                                                                                          \
  UNSTUCK_CLONES void T##_general(const Job& j) { run_stored<T, true, kNoSums>(j); }         \
  UNSTUCK_CLONES void T##_general_sums(const Job& j) { run_stored<T, true, kSums>(j); }      \
  UNSTUCK_CLONES void T##_general_direction(const Job& j) {                                  \
    run_stored<T, true, kSumsAndDirection>(j);                                               \
  }                                                                                          \
  UNSTUCK_CLONES void T##_hypergradient(const Job& j) { run_hypergradient<T>(j); }           \
  constexpr Function T##_steps[2][3] = {{T##_shared, T##_shared_sums, T##_shared_direction}, \
                                        {T##_general, T##_general_sums, T##_general_direction}};
UNSTUCK_ENTRIES(float)
UNSTUCK_ENTRIES(double)
UNSTUCK_ENTRIES(bfloat16)
UNSTUCK_ENTRIES(float16)
#undef UNSTUCK_ENTRIES

Function step(DType dtype, bool has_buffer, Meta meta) {
  switch (dtype) {
    case DType::f32:
      return float_steps[has_buffer][meta];
    case DType::f64:
      return double_steps[has_buffer][meta];
    case DType::bf16:
      return bfloat16_steps[has_buffer][meta];
    default:
      return float16_steps[has_buffer][meta];
  }
}
Function hypergradient(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return float_hypergradient;
    case DType::f64:
      return double_hypergradient;
    case DType::bf16:
      return bfloat16_hypergradient;
    default:
      return float16_hypergradient;
  }
}
}  // namespace entry

namespace {

// The coefficients of every tensor; neighbours of one group and age share the work.
std::vector<BlendCoefs<double>> all_coefficients(const BlendStep& step) {
  std::vector<BlendCoefs<double>> coefs(step.tensor_count);
  const double loss_scale = step.loss_scale ? *step.loss_scale : 1.0;
  const BlendTensor* last = nullptr;
  for (size_t i = 0; i < step.tensor_count; ++i) {
    const BlendTensor& t = step.tensors[i];
    if (last && t.group == last->group && t.unit == last->unit && *t.step == *last->step &&
        t.had_previous == last->had_previous) {
      coefs[i] = coefs[i - 1];
      continue;
    }
    last = &t;
    const BlendGroupStep& group = step.groups[t.group];
    const BlendGroup now = group.resolved();
    double alpha = now.alpha, previous_alpha = 0;
    BlendRates previous;
    const bool has_previous = group.gate && group.gate[kPrevValid] != 0 && t.had_previous;
    if (group.gate) {
      const double* unit = gate_unit(group.gate, group.gate_config.hidden, t.unit);
      alpha = unit[kAlpha];
      previous_alpha = unit[kAlphaPrev];
      previous = gate_previous_rates(group.gate);
    }
    coefs[i] = blend_coefficients<double>(now, alpha, double(*t.step) + 1, loss_scale,
                                          has_previous ? &previous : nullptr, previous_alpha);
  }
  return coefs;
}

void sum_partials(const BlendStep& step, const std::vector<Chunk>& chunks,
                  const std::vector<double>& partials, bool correct) {
  for (size_t g = 0; g < step.group_count; ++g)
    if (step.groups[g].sums)
      std::fill_n(step.groups[g].sums, step.groups[g].gate_config.units * int64_t(kBlendSums), 0.0);
  for (size_t i = 0; i < chunks.size();) {
    const uint32_t tensor = chunks[i].tensor;
    const BlendTensor& t = step.tensors[tensor];
    const BlendGroupStep& group = step.groups[t.group];
    double sums[kBlendSums] = {};
    for (; i < chunks.size() && chunks[i].tensor == tensor; ++i)
      for (int k = 0; k < kBlendSums; ++k) sums[k] += partials[i * kBlendSums + k];
    if (!group.sums) continue;
    if (correct) correct_sums(sums, bias_correction(group.group.rates.beta1, double(*t.step) + 1));
    double* out = group.sums + int64_t(t.unit) * kBlendSums;
    for (int k = 0; k < kBlendSums; ++k) out[k] += sums[k];
  }
}

// The groups that have a gate and at least one tensor in this step.
std::vector<const BlendGroupStep*> gated_groups(const BlendStep& step) {
  std::vector<const BlendGroupStep*> groups;
  std::vector<bool> seen(step.group_count);
  for (size_t i = 0; i < step.tensor_count; ++i) {
    const size_t g = size_t(step.tensors[i].group);
    if (!seen[g] && step.groups[g].gate) groups.push_back(&step.groups[g]);
    seen[g] = true;
  }
  return groups;
}

int64_t elements(const BlendStep& step) {
  int64_t n = 0;
  for (size_t i = 0; i < step.tensor_count; ++i) n += step.tensors[i].numel;
  return n;
}

}  // namespace

void blend_step(const BlendStep& step, const std::vector<Chunk>& chunks,
                std::vector<double>& partials, int threads) {
  if (step.found_inf && *step.found_inf != 0) return;
  const auto coefs = all_coefficients(step);
  parallel_for(int64_t(chunks.size()), elements(step), threads, [&](int64_t i) {
    const Chunk& chunk = chunks[size_t(i)];
    const BlendTensor& t = step.tensors[chunk.tensor];
    const Meta meta = !step.groups[t.group].gate ? kNoSums
                      : t.has_direction          ? kSumsAndDirection
                                                 : kSums;
    entry::step(t.dtype, t.has_buffer, meta)(
        {&t, chunk.offset, chunk.length, &coefs[chunk.tensor], &partials[size_t(i) * kBlendSums]});
  });
  sum_partials(step, chunks, partials, true);
  for (size_t i = 0; i < step.tensor_count; ++i) *step.tensors[i].step += 1;
  if (!step.finish) return;
  for (const BlendGroupStep* g : gated_groups(step))
    gate_finish(g->gate, g->resolved(), g->gate_config, g->sums, SingleThread{});
}

void blend_hypergradient(const BlendStep& step, const std::vector<Chunk>& chunks,
                         std::vector<double>& partials, int threads) {
  const auto coefs = all_coefficients(step);
  parallel_for(int64_t(chunks.size()), elements(step), threads, [&](int64_t i) {
    const Chunk& chunk = chunks[size_t(i)];
    const BlendTensor& t = step.tensors[chunk.tensor];
    entry::hypergradient(t.dtype)(
        {&t, chunk.offset, chunk.length, &coefs[chunk.tensor], &partials[size_t(i) * kBlendSums]});
  });
  sum_partials(step, chunks, partials, false);
  if (!step.finish) return;
  for (const BlendGroupStep* g : gated_groups(step))
    gate_meta_step(g->gate, g->gate_config, g->sums, SingleThread{});
}

const char* instruction_set() {
#if UNSTUCK_HAS_CLONES
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return "x86-64-v4";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "x86-64-v3";
#endif
  return "baseline";
}

}  // namespace unstuck::cpu
