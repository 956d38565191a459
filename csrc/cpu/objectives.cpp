// The regressions on the CPU: a block of rows gives its losses and, while it is in the cache, its
// part of the gradient.
#include "cpu/objectives.hpp"

#include <vector>

#include "core/parallel.hpp"
#include "cpu/net.hpp"
#include "cpu/rows.hpp"
#include "math/trials.hpp"

namespace unstuck::cpu {

namespace {

// Rows whose data stays in the first-level cache between the product and the gradient.
constexpr int64_t kBlock = 8192, kMostRows = 64;
// Parts of the data with a gradient of their own; their number decides how results are rounded.
constexpr int64_t kMostSlices = 16, kLeastRows = 64;

struct SliceJob {
  const Regression* objective;
  const void* w;
  int64_t first, rows;
  void* gradient;  // [D], zeroed
  double* loss;
};

template <class T>
UNSTUCK_INLINE void add_rows(const Matrix<T>& x, int64_t first, int64_t rows, const T* factors,
                             T* gradient) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    const T *a = x.row(first + i), *b = x.row(first + i + 1), *c = x.row(first + i + 2),
            *d = x.row(first + i + 3);
    const T fa = factors[i], fb = factors[i + 1], fc = factors[i + 2], fd = factors[i + 3];
#pragma omp simd
    for (int64_t j = 0; j < x.columns; ++j)
      gradient[j] += (fa * a[j] + fb * b[j]) + (fc * c[j] + fd * d[j]);
  }
  for (; i < rows; ++i) {
    const T* a = x.row(first + i);
#pragma omp simd
    for (int64_t j = 0; j < x.columns; ++j) gradient[j] += factors[i] * a[j];
  }
}

template <class T>
UNSTUCK_INLINE void slice(const SliceJob& job) {
  const Regression& o = *job.objective;
  const Matrix<T> x{static_cast<const T*>(o.x), o.n, o.dim, o.stride};
  const T *w = static_cast<const T*>(job.w), *y = static_cast<const T*>(o.y);
  const int64_t step = std::clamp<int64_t>(kBlock / o.dim / 4 * 4, 4, kMostRows);
  double loss = 0, products[kMostRows];
  T z[kMostRows], factors[kMostRows];
  for (int64_t first = job.first; first < job.first + job.rows; first += step) {
    const int64_t rows = std::min(step, job.first + job.rows - first);
    dot_block<1>(x, first, rows, &w, products);
    if (o.logistic) {
      for (int64_t i = 0; i < rows; ++i) z[i] = T(products[i]);
      loss += bce_rows(z, y + first, rows);
#pragma omp simd
      for (int64_t i = 0; i < rows; ++i) factors[i] = bce_slope(z[i], y[first + i]);
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        const double residual = products[i] - double(y[first + i]);
        loss += residual * residual;
        factors[i] = T(2 * residual);
      }
    }
    add_rows(x, first, rows, factors, static_cast<T*>(job.gradient));
  }
  *job.loss = loss;
}

UNSTUCK_CLONES void slice_float(const SliceJob& j) { slice<float>(j); }
UNSTUCK_CLONES void slice_double(const SliceJob& j) { slice<double>(j); }

template <class T>
void gradient_of(const Regression& o, const T* w, T* loss, T* gradient, int threads) {
  const int64_t slices = std::clamp<int64_t>(o.n / kLeastRows, 1, kMostSlices);
  std::vector<T> gradients(size_t(slices * o.dim));
  std::vector<double> losses(static_cast<size_t>(slices));
  parallel_for(slices, 2 * o.n * o.dim, threads, [&](int64_t s) {
    const int64_t first = o.n * s / slices, last = o.n * (s + 1) / slices;
    const SliceJob job{
        &o, w, first, last - first, &gradients[size_t(s * o.dim)], &losses[size_t(s)]};
    sizeof(T) == 4 ? slice_float(job) : slice_double(job);
  });
  double total = 0, square = 0;
  for (double part : losses) total += part;
  if (o.lam != 0)
    for (int64_t j = 0; j < o.dim; ++j) square += double(w[j]) * double(w[j]);
  const double pull = trapped_pull(square, o.lam, o.kappa);
  *loss = T(trapped_loss(total, square, double(o.n), o.lam, o.kappa));
  for (int64_t j = 0; j < o.dim; ++j) {
    double sum = 0;
    for (int64_t s = 0; s < slices; ++s) sum += double(gradients[size_t(s * o.dim + j)]);
    gradient[j] = T(sum / double(o.n) + (o.lam != 0 ? pull * double(w[j]) : 0.0));
  }
}

}  // namespace

void regression_gradient(const Regression& o, const void* w, void* loss, void* gradient,
                         int threads) {
  if (o.dtype == DType::f32)
    gradient_of(o, static_cast<const float*>(w), static_cast<float*>(loss),
                static_cast<float*>(gradient), threads);
  else
    gradient_of(o, static_cast<const double*>(w), static_cast<double*>(loss),
                static_cast<double*>(gradient), threads);
}

}  // namespace unstuck::cpu
