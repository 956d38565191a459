// The second layer and the loss of a two-layer net over a block of rows, see math/mlp.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "math/mlp.hpp"
#include "objective_terms.hpp"

namespace unstuck::cpu {

// The sum of binary cross-entropies.
template <class T>
UNSTUCK_INLINE double bce_rows(const T* z, const T* y, int64_t rows) {
  constexpr int64_t W = 64 / int64_t(sizeof(T));
  double total = 0;
  for (int64_t start = 0; start < rows; start += W * kProduct) {
    const int64_t end = std::min(rows, start + W * kProduct);
    T linear[W] = {}, product[W] = {};
    for (int64_t i = start; i < end; i += W) {
      const int64_t n = std::min(W, end - i);
#pragma omp simd
      for (int64_t l = 0; l < n; ++l) {
        linear[l] += bce_linear(z[i + l], y[i + l]);
        product[l] = bce_product(product[l], z[i + l]);
      }
    }
    double together = 0;
    for (int64_t l = 0; l < W; ++l) {
      total += double(linear[l]);
      together += double(product[l]) + together * double(product[l]);
    }
    total += std::log1p(together);
  }
  return total;
}

constexpr int64_t kNetRows = 64;

// The sum of cross-entropies of outputs z [C, kNetRows], which are overwritten.
template <class T>
UNSTUCK_INLINE double cross_entropy_rows(T* z, int64_t outputs, const int64_t* y, int64_t rows) {
  T top[kNetRows], sum[kNetRows];
  double total = 0;
  for (int64_t i = 0; i < rows; ++i)  // a class that does not exist has no loss
    total -= uint64_t(y[i]) < uint64_t(outputs) ? double(z[y[i] * kNetRows + i]) : std::nan("");
  for (int64_t i = 0; i < rows; ++i) top[i] = z[i];
  for (int64_t c = 1; c < outputs; ++c)
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i) {
      const T x = z[c * kNetRows + i];
      top[i] = x > top[i] ? x : top[i];
    }
  for (int64_t i = 0; i < rows; ++i) sum[i] = 0;
  for (int64_t c = 0; c < outputs; ++c)
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i) {
      const T x = z[c * kNetRows + i] - top[i];
      sum[i] += exp_negative(x) + (x - x);  // NaN stays
    }
  for (int64_t i = 0; i < rows; ++i) total += double(top[i]) + std::log(double(sum[i]));
  return total;
}

struct NetJob {
  const NetTrials* net;
  const Trials* trials;
  int64_t first, rows;
  double* out;  // [K]
};

template <class T>
UNSTUCK_INLINE void net_block(const NetJob& job) {
  const NetTrials& net = *job.net;
  const auto at = [](const void* p) { return static_cast<const T*>(p); };
  const T *first = at(net.first) + job.first, *slope = at(net.slope) + job.first;
  const T *w2 = at(net.second), *d2 = at(net.change);
  const int64_t hidden = net.hidden, outputs = net.outputs, rows = job.rows;
  std::vector<T> memory(size_t(outputs * kNetRows));
  T* z = memory.data();
  for (int64_t k = 0; k < job.trials->count; ++k) {
    const T rate = at(job.trials->rates)[k];
    for (int64_t c = 0; c < outputs; ++c)
      std::fill_n(z + c * kNetRows, rows,
                  w2[outputs * hidden + c] - rate * d2[outputs * hidden + c]);
    for (int64_t h = 0; h < hidden; ++h) {
      const T *x = first + h * net.n, *s = slope + h * net.n;
      T active[kNetRows];
#pragma omp simd
      for (int64_t i = 0; i < rows; ++i) active[i] = relu(x[i] - rate * s[i]);
      for (int64_t c = 0; c < outputs; ++c) {
        const T weight = w2[c * hidden + h] - rate * d2[c * hidden + h];
        T* out = z + c * kNetRows;
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) out[i] += weight * active[i];
      }
    }
    job.out[k] =
        net.cross_entropy
            ? cross_entropy_rows(z, outputs, static_cast<const int64_t*>(net.y) + job.first, rows)
            : bce_rows(z, at(net.y) + job.first, rows);
  }
}

}  // namespace unstuck::cpu
