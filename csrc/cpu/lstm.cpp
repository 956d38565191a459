// The LSTM rule's step on the CPU, see math/lstm.hpp for the formulas. Coordinates go in panels of
// kWide: their features and hidden units are the right side of one matrix product with all gates'
// weights, and everything between loads and stores stays in the first-level cache. A panel's rows
// lie far apart, where processors do not look ahead: those of the next panel are asked for.
//
// This file is compiled with contraction, and without regard for signed zeros.
#include "cpu/lstm.hpp"

#include <algorithm>
#include <cstring>

#include "cpu/products.hpp"

namespace unstuck::cpu {

namespace {

constexpr int64_t kWide = kPanel<float>;
constexpr int64_t kLine = 64 / sizeof(float);  // elements
constexpr int64_t kPiece = 1024;               // coordinates a task: a cell's products are many
constexpr int64_t kCost = 200;                 // a coordinate costs as much as so many of Adam's
constexpr int kMostInputs = lstm::kFeatures + lstm::kMostHidden;

// A panel of coordinates and all that is computed for them.
struct Panel {
  alignas(64) float in[kMostInputs * kWide];               // features, then hidden units
  alignas(64) float gates[4 * lstm::kMostHidden * kWide];  // i, f, o, z
  alignas(64) float cell[lstm::kMostHidden * kWide];
  alignas(64) float w[kWide], g[kWide], m[kWide], v[kWide], d[kWide], u[kWide];
};

template <class T>
UNSTUCK_INLINE void take(const void* from, int64_t at, int64_t n, T* to) {
  const T* const p = static_cast<const T*>(from) + at;
  if (n == kWide) {
    std::memcpy(to, p, kWide * sizeof(T));
    return;
  }
  std::copy_n(p, n, to);
  std::fill(to + n, to + kWide, T(0));
}
UNSTUCK_INLINE void put(const float* from, int64_t n, void* to, int64_t at) {
  float* const p = static_cast<float*>(to) + at;
  if (n == kWide)
    std::memcpy(p, from, kWide * sizeof(float));
  else
    std::copy_n(from, n, p);
}

// Asks for some rows of the next panel while this one is computed.
UNSTUCK_INLINE void ask(const void* from, int64_t rows, int64_t stride, int64_t at) {
  const float* p = static_cast<const float*>(from) + at;
  for (int64_t j = 0; j < rows; ++j, p += stride)
    for (int64_t l = 0; l < kWide; l += kLine) __builtin_prefetch(p + l, 1);
}

UNSTUCK_INLINE void moments_of(Panel& p, const lstm::Coefs& c) {
#pragma omp simd
  for (int64_t l = 0; l < kWide; ++l) {
    float m = p.m[l], v = p.v[l], d;
    const float g = p.g[l] * c.grad_scale;
    p.u[l] = lstm::moments(g, m, v, c, d);
    p.g[l] = g;
    p.m[l] = m;
    p.v[l] = v;
    p.d[l] = d;
  }
}

template <lstm::Features kind>
UNSTUCK_INLINE void features_of(Panel& p, const lstm::Coefs& c) {
#pragma omp simd
  for (int64_t l = 0; l < kWide; ++l)
    lstm::features(kind, p.w[l], p.g[l], p.u[l], p.d[l], c, p.in + l, kWide);
}

// The cell: gates in, hidden units out where they came from.
UNSTUCK_INLINE void cell_of(Panel& p, int64_t hidden, int64_t inputs) {
  const int64_t n = hidden * kWide;
  float *const i = p.gates, *const f = i + n, *const o = f + n, *const z = o + n;
  float *const c = p.cell, *const h = p.in + inputs * kWide;
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) h[l] = lstm::cell(i[l], f[l], o[l], z[l], c[l]);
}

UNSTUCK_INLINE void move_of(Panel& p, const lstm::Net& net, const lstm::Coefs& c,
                            const float* out) {
  const float* const h = p.in + net.inputs() * kWide;
  float d[kWide] = {};
  for (int64_t j = 0; j < net.hidden; ++j)
#pragma omp simd
    for (int64_t l = 0; l < kWide; ++l) d[l] += out[j] * h[j * kWide + l];
#pragma omp simd
  for (int64_t l = 0; l < kWide; ++l) p.w[l] = lstm::moved(p.w[l], p.u[l], d[l], net, c);
}

struct Job {
  const LstmTensor* t;
  const LstmStep* step;
  const lstm::Coefs* coefs;
  const float* weights;  // [4 hidden, inputs + hidden]
  int64_t offset, length;
};

}  // namespace

namespace entry {
UNSTUCK_CLONES void lstm_moments(Panel& p, const lstm::Coefs& c) { moments_of(p, c); }
UNSTUCK_CLONES void lstm_features(Panel& p, lstm::Features kind, const lstm::Coefs& c) {
  if (kind == lstm::Features::gradient) return features_of<lstm::Features::gradient>(p, c);
  if (kind == lstm::Features::log) return features_of<lstm::Features::log>(p, c);
  features_of<lstm::Features::rich>(p, c);
}
UNSTUCK_CLONES void lstm_cell(Panel& p, int64_t hidden, int64_t inputs) {
  cell_of(p, hidden, inputs);
}
UNSTUCK_CLONES void lstm_move(Panel& p, const lstm::Net& net, const lstm::Coefs& c,
                              const float* out) {
  move_of(p, net, c, out);
}
}  // namespace entry

namespace {

void run(const Job& job) {
  const LstmTensor& t = *job.t;
  const lstm::Net& net = job.step->net;
  const int64_t hidden = net.hidden, inputs = net.inputs();
  const float* theta = job.step->theta;
  Panel p;
  for (int64_t at = job.offset; at < job.offset + job.length; at += kWide) {
    const int64_t n = std::min(kWide, job.offset + job.length - at);
    take(t.w, at, n, p.w);
    take(t.g, at, n, p.g);
    take(t.m, at, n, p.m);
    take(t.v, at, n, p.v);
    for (int64_t j = 0; j < hidden; ++j) {
      take(t.hidden, j * t.numel + at, n, p.in + (inputs + j) * kWide);
      take(t.cell, j * t.numel + at, n, p.cell + j * kWide);
    }
    const int64_t next = at + kWide;
    const bool more = next + kWide <= job.offset + job.length;
    if (more) ask(t.hidden, hidden, t.numel, next);
    entry::lstm_moments(p, *job.coefs);
    entry::lstm_features(p, net.features, *job.coefs);
    multiply({job.weights, inputs + hidden, 1, p.in, kWide, p.gates, kWide, theta + net.bias(),
              4 * hidden, inputs + hidden, false});
    if (more) ask(t.cell, hidden, t.numel, next);
    entry::lstm_cell(p, hidden, inputs);
    entry::lstm_move(p, net, *job.coefs, theta + net.out());
    put(p.w, n, t.w, at);
    put(p.m, n, t.m, at);
    put(p.v, n, t.v, at);
    for (int64_t j = 0; j < hidden; ++j) {
      put(p.in + (inputs + j) * kWide, n, t.hidden, j * t.numel + at);
      put(p.cell + j * kWide, n, t.cell, j * t.numel + at);
    }
  }
}

}  // namespace

LstmWork::LstmWork(const std::vector<LstmTensor>& tensors) {
  for (size_t i = 0; i < tensors.size(); ++i)
    for (int64_t at = 0; at < tensors[i].numel; at += kPiece)
      chunks.push_back({uint32_t(i), at, std::min(kPiece, tensors[i].numel - at)});
}

void lstm_step(const LstmStep& step, LstmWork& work, int threads) {
  if (step.found_inf && *step.found_inf != 0) return;
  const int64_t rows = 4 * step.net.hidden, inputs = step.net.inputs(), hidden = step.net.hidden;
  std::vector<float> weights(size_t(rows * (inputs + hidden)));
  for (int64_t r = 0; r < rows; ++r) {
    float* to = weights.data() + r * (inputs + hidden);
    std::copy_n(step.theta + r * inputs, inputs, to);
    std::copy_n(step.theta + step.net.recurrent() + r * hidden, hidden, to + inputs);
  }
  std::vector<lstm::Coefs> coefs;
  int64_t elements = 0;
  for (size_t i = 0; i < step.tensor_count; ++i) {
    const LstmTensor& t = step.tensors[i];
    const LearnedGroup& g = step.groups[t.group];
    coefs.push_back(lstm::coefficients(double(*t.step) + 1, g.rate(), g.weight_decay, g.num_steps,
                                       g.maximize, step.loss_scale ? *step.loss_scale : 1.0));
    elements += t.numel;
  }
  parallel_for(int64_t(work.chunks.size()), elements * kCost, threads, [&](int64_t i) {
    const Chunk& chunk = work.chunks[size_t(i)];
    run({&step.tensors[chunk.tensor], &step, &coefs[chunk.tensor], weights.data(), chunk.offset,
         chunk.length});
  });
  for (size_t i = 0; i < step.tensor_count; ++i) *step.tensors[i].step += 1;
}

}  // namespace unstuck::cpu
