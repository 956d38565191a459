// The Adam step on the CPU: one pass over memory, see math/adam.hpp for the formula. The gradients
// are squared and added up on the way.
#include "cpu/adam.hpp"

#include <algorithm>
#include <type_traits>

#include "cpu/half.hpp"

namespace unstuck::cpu {

namespace {

// One chunk of one tensor.
struct Job {
  const AdamTensor* t;
  int64_t offset, length;
  const AdamCoefs<double>* coefs;
  double* squares;
};

// Partial sums are kept in a fixed number of lanes whatever the vector width, and folded into
// doubles every kFold elements: every instruction set gets the same result.
constexpr int64_t kFold = 1024;
constexpr int64_t kStage = 256;
constexpr int64_t kAhead = 256;  // elements

template <class T>
struct Memory {
  T *w, *m, *v;
  const T* g;
};

template <class R>
UNSTUCK_INLINE void prefetch(const Memory<R>& at, int64_t i) {
  __builtin_prefetch(at.w + i, 1);
  __builtin_prefetch(at.m + i, 1);
  __builtin_prefetch(at.v + i, 1);
  __builtin_prefetch(at.g + i, 0);
}

template <bool FromGrad, class R>
UNSTUCK_INLINE double run_from(const Memory<R>& at, int64_t length, const AdamCoefs<R>& c) {
  constexpr int64_t W = 64 / int64_t(sizeof(R));
  R* __restrict const w = at.w;
  R* __restrict const m = at.m;
  R* __restrict const v = at.v;
  const R* __restrict const g = at.g;
  double total = 0;
  for (int64_t start = 0; start < length; start += kFold) {
    const int64_t end = std::min(length, start + kFold), whole = start + (end - start) / W * W;
    R squares[W] = {};
    for (int64_t i = start; i < whole; i += W) {
      prefetch(at, i + kAhead);
#pragma omp simd
      for (int64_t l = 0; l < W; ++l) {
        R wi = w[i + l], mi = m[i + l], vi = v[i + l];
        const R x = adam_element<FromGrad>(wi, g[i + l], mi, vi, c);
        w[i + l] = wi;
        m[i + l] = mi;
        v[i + l] = vi;
        squares[l] += x * x;
      }
    }
    for (int64_t i = whole; i < end; ++i) {
      const R x = adam_element<FromGrad>(w[i], g[i], m[i], v[i], c);
      squares[i - whole] += x * x;
    }
    for (int64_t l = 0; l < W; ++l) total += double(squares[l]);
  }
  return total;
}

template <class R>
UNSTUCK_INLINE double run(const Memory<R>& at, int64_t length, const AdamCoefs<R>& c) {
  return c.from_grad ? run_from<true>(at, length, c) : run_from<false>(at, length, c);
}

template <class T>
UNSTUCK_INLINE void to_float(const T* from, float* to, int64_t n) {
  if constexpr (std::is_same_v<T, float16>)
    widen_all(from, to, n);
  else
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
}
template <class T>
UNSTUCK_INLINE void to_half(const float* from, T* to, int64_t n) {
  if constexpr (std::is_same_v<T, float16>)
    narrow_all(from, to, n);
  else
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = narrow<T>(from[i]);
}

// 16-bit tensors go through float32 copies of kStage elements, which stay in the first-level cache:
// conversions and step then each vectorise at full width.
template <class T>
UNSTUCK_INLINE double run_staged(const Memory<T>& at, int64_t length, const AdamCoefs<float>& c) {
  alignas(64) float w[kStage], g[kStage], m[kStage], v[kStage];
  double total = 0;
  for (int64_t start = 0; start < length; start += kStage) {
    const int64_t n = std::min(kStage, length - start);
    to_float(at.w + start, w, n);
    to_float(at.g + start, g, n);
    to_float(at.m + start, m, n);
    to_float(at.v + start, v, n);
    total += run<float>({w, m, v, g}, n, c);
    to_half(w, at.w + start, n);
    to_half(m, at.m + start, n);
    to_half(v, at.v + start, n);
  }
  return total;
}

template <class T>
UNSTUCK_INLINE void step(const Job& job) {
  const auto at = [&](void* p) { return p ? static_cast<T*>(p) + job.offset : nullptr; };
  const Memory<T> memory{at(job.t->w), at(job.t->m), at(job.t->v), at(job.t->g)};
  const auto c = narrowed<arithmetic_t<T>>(*job.coefs);
  if constexpr (std::is_same_v<T, arithmetic_t<T>>)
    *job.squares = run(memory, job.length, c);
  else
    *job.squares = run_staged(memory, job.length, c);
}

}  // namespace

// One compiled function a type, so that the loader can choose its instruction set.
namespace entry {
UNSTUCK_CLONES void adam_float(const Job& j) { step<float>(j); }
UNSTUCK_CLONES void adam_double(const Job& j) { step<double>(j); }
UNSTUCK_CLONES void adam_bfloat16(const Job& j) { step<bfloat16>(j); }
UNSTUCK_CLONES void adam_float16(const Job& j) { step<float16>(j); }
constexpr void (*adam[])(const Job&) = {adam_float, adam_double, adam_bfloat16, adam_float16};
}  // namespace entry

namespace {

// The coefficients of every tensor; neighbours of one group and age share the work.
std::vector<AdamCoefs<double>> all_coefficients(const AdamStep& step) {
  std::vector<AdamCoefs<double>> coefs(step.tensor_count);
  const double loss_scale = step.loss_scale ? *step.loss_scale : 1.0;
  for (size_t i = 0; i < step.tensor_count; ++i) {
    const AdamTensor &t = step.tensors[i], &before = step.tensors[i ? i - 1 : 0];
    coefs[i] =
        i && t.group == before.group && *t.step == *before.step
            ? coefs[i - 1]
            : adam_coefficients(step.groups[t.group].resolved(), double(*t.step) + 1, loss_scale);
  }
  return coefs;
}

}  // namespace

void adam_step(const AdamStep& step, const std::vector<Chunk>& chunks,
               std::vector<double>& partials, int threads) {
  if (step.found_inf && *step.found_inf != 0) return;
  const auto coefs = all_coefficients(step);
  int64_t elements = 0;
  for (size_t i = 0; i < step.tensor_count; ++i) elements += step.tensors[i].numel;
  parallel_for(int64_t(chunks.size()), elements, threads, [&](int64_t i) {
    const Chunk& chunk = chunks[size_t(i)];
    const AdamTensor& t = step.tensors[chunk.tensor];
    entry::adam[int(t.dtype)](
        {&t, chunk.offset, chunk.length, &coefs[chunk.tensor], &partials[size_t(i)]});
  });
  for (size_t i = 0; i < step.tensor_count; ++i) *step.tensors[i].step += 1;
  if (!step.stats) return;
  for (const double x : partials) step.stats[kGradSquares] += x;
  if (step.finish) track(step.stats, step.config);
}

namespace {

template <bool Fresh, bool FromGrad, class R>
UNSTUCK_INLINE void descend(R* __restrict w, const R* __restrict g, R* __restrict m,
                            R* __restrict v, int64_t n, const AdamCoefs<R>& c) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    R wi = w[i], mi = Fresh ? R(0) : m[i], vi = Fresh ? R(0) : v[i];
    adam_element<FromGrad>(wi, g[i], mi, vi, c);
    w[i] = wi;
    m[i] = mi;
    v[i] = vi;
  }
}
template <class R>
UNSTUCK_INLINE void descend(R* w, const R* g, R* m, R* v, int64_t n, const AdamCoefs<double>& coefs,
                            bool fresh) {
  const AdamCoefs<R> c = narrowed<R>(coefs);
  if (c.from_grad)
    fresh ? descend<true, true>(w, g, m, v, n, c) : descend<false, true>(w, g, m, v, n, c);
  else
    fresh ? descend<true, false>(w, g, m, v, n, c) : descend<false, false>(w, g, m, v, n, c);
}

}  // namespace

namespace entry {
UNSTUCK_CLONES void adam_descent(float* w, const float* g, float* m, float* v, int64_t n,
                                 const AdamCoefs<double>& coefs, bool fresh) {
  descend(w, g, m, v, n, coefs, fresh);
}
UNSTUCK_CLONES void adam_descent(double* w, const double* g, double* m, double* v, int64_t n,
                                 const AdamCoefs<double>& coefs, bool fresh) {
  descend(w, g, m, v, n, coefs, fresh);
}
}  // namespace entry

void adam_descent(float* w, const float* g, float* m, float* v, int64_t n,
                  const AdamCoefs<double>& coefs, bool fresh) {
  entry::adam_descent(w, g, m, v, n, coefs, fresh);
}
void adam_descent(double* w, const double* g, double* m, double* v, int64_t n,
                  const AdamCoefs<double>& coefs, bool fresh) {
  entry::adam_descent(w, g, m, v, n, coefs, fresh);
}

}  // namespace unstuck::cpu
