// Learning-rate trials on the CPU, see math/trials.hpp for the formulas. The data is read once: a
// block of rows is multiplied with w and d, and all rates are tried while its products are at hand.
#include "cpu/trials.hpp"

#include <vector>

#include "core/parallel.hpp"
#include "cpu/net.hpp"
#include "cpu/rows.hpp"
#include "math/mlp.hpp"
#include "math/trials.hpp"

namespace unstuck::cpu {

namespace {

// Rows of a block: about kBlock elements of the data, and few enough to keep their products.
constexpr int64_t kBlock = 65536, kMostRows = 512;
int64_t rows_of_block(int64_t dim) { return std::clamp<int64_t>(kBlock / dim, 4, kMostRows); }

template <class T>
Matrix<T> matrix(const Regression& o) {
  return {static_cast<const T*>(o.x), o.n, o.dim, o.stride};
}

struct LeastSquaresJob {
  const Regression* objective;
  const Trials* trials;
  int64_t first, rows;
  Parabola* out;
};
template <class T>
UNSTUCK_INLINE void least_squares(const LeastSquaresJob& job) {
  const T* const vectors[2] = {static_cast<const T*>(job.trials->w),
                               static_cast<const T*>(job.trials->d)};
  const T* y = static_cast<const T*>(job.objective->y) + job.first;
  double products[2 * kMostRows];
  dot_block<2>(matrix<T>(*job.objective), job.first, job.rows, vectors, products);
  Parabola sum{0, 0, 0};
  for (int64_t i = 0; i < job.rows; ++i)
    sum.add(products[i] - double(y[i]), products[job.rows + i]);
  *job.out = sum;
}

struct LogisticJob {
  const Regression* objective;
  const Trials* trials;
  int64_t first, rows;
  double* out;  // [K]
};
template <class T>
UNSTUCK_INLINE void logistic(const LogisticJob& job) {
  const T* const vectors[2] = {static_cast<const T*>(job.trials->w),
                               static_cast<const T*>(job.trials->d)};
  const T* y = static_cast<const T*>(job.objective->y) + job.first;
  double products[2 * kMostRows];
  dot_block<2>(matrix<T>(*job.objective), job.first, job.rows, vectors, products);
  T z[kMostRows], q[kMostRows], moved[kMostRows];
  for (int64_t i = 0; i < job.rows; ++i) {
    z[i] = T(products[i]);
    q[i] = T(products[job.rows + i]);
  }
  for (int64_t k = 0; k < job.trials->count; ++k) {
    const T rate = static_cast<const T*>(job.trials->rates)[k];
#pragma omp simd
    for (int64_t i = 0; i < job.rows; ++i) moved[i] = z[i] - rate * q[i];
    job.out[k] = bce_rows(moved, y, job.rows);
  }
}

struct LineJob {
  const Trials* trials;
  int64_t first, count;
  Parabola* out;
};
template <class T>
UNSTUCK_INLINE void line(const LineJob& job) {
  constexpr int64_t W = 64 / int64_t(sizeof(T));
  const T* w = static_cast<const T*>(job.trials->w) + job.first;
  const T* d = static_cast<const T*>(job.trials->d) + job.first;
  double xx[W] = {}, xd[W] = {}, dd[W] = {};
  for (int64_t i = 0; i < job.count; i += W) {
    const int64_t n = std::min(W, job.count - i);
#pragma omp simd
    for (int64_t l = 0; l < n; ++l) {
      const double a = double(w[i + l]), b = double(d[i + l]);
      xx[l] += a * a;
      xd[l] += a * b;
      dd[l] += b * b;
    }
  }
  Parabola sum{0, 0, 0};
  for (int64_t l = 0; l < W; ++l) sum.add({xx[l], xd[l], dd[l]});
  *job.out = sum;
}

struct MoveJob {
  const Trials* trials;
  double rate;
  int64_t first, count;
};
template <class T>
UNSTUCK_INLINE void move(const MoveJob& job) {
  const T* w = static_cast<const T*>(job.trials->w) + job.first;
  const T* d = static_cast<const T*>(job.trials->d) + job.first;
  T* out = static_cast<T*>(job.trials->moved) + job.first;
  const T rate = T(job.rate);
#pragma omp simd
  for (int64_t i = 0; i < job.count; ++i) out[i] = w[i] - rate * d[i];
}

UNSTUCK_CLONES void least_squares_float(const LeastSquaresJob& j) { least_squares<float>(j); }
UNSTUCK_CLONES void least_squares_double(const LeastSquaresJob& j) { least_squares<double>(j); }
UNSTUCK_CLONES void logistic_float(const LogisticJob& j) { logistic<float>(j); }
UNSTUCK_CLONES void logistic_double(const LogisticJob& j) { logistic<double>(j); }
UNSTUCK_CLONES void line_float(const LineJob& j) { line<float>(j); }
UNSTUCK_CLONES void line_double(const LineJob& j) { line<double>(j); }
UNSTUCK_CLONES void move_float(const MoveJob& j) { move<float>(j); }
UNSTUCK_CLONES void move_double(const MoveJob& j) { move<double>(j); }
UNSTUCK_CLONES void net_float(const NetJob& j) { net_block<float>(j); }
UNSTUCK_CLONES void net_double(const NetJob& j) { net_block<double>(j); }

double rate_at(const Trials& t, DType dtype, int64_t k) {
  return dtype == DType::f32 ? double(static_cast<const float*>(t.rates)[k])
                             : static_cast<const double*>(t.rates)[k];
}

// Writes the losses and, where it is wanted, takes the step.
template <class T>
void finish(const Trials& t, const std::vector<double>& losses, int64_t dim, int threads) {
  T* out = static_cast<T*>(t.losses);
  for (int64_t k = 0; k < t.count; ++k) out[k] = T(losses[size_t(k)]);
  if (!t.moved) return;
  const double rate =
      choose_rate(out, static_cast<const T*>(t.rates), t.count, t.beta, static_cast<T*>(t.p));
  *static_cast<T*>(t.rate) = T(rate);
  if (T(rate) == T(0)) {  // d may be infinite: the point stays as it is
    std::copy_n(static_cast<const T*>(t.w), dim, static_cast<T*>(t.moved));
    return;
  }
  parallel_for(chunks_of(dim), dim, threads, [&](int64_t c) {
    const int64_t first = chunk_begin(uint32_t(c));
    const MoveJob job{&t, rate, first, chunk_end(uint32_t(c), dim) - first};
    sizeof(T) == 4 ? move_float(job) : move_double(job);
  });
}
// The sums over blocks of what each block left for every rate.
std::vector<double> means(const std::vector<double>& partials, int64_t count, int64_t n) {
  std::vector<double> sums(size_t(count), 0.0);
  for (size_t i = 0; i < partials.size(); ++i) sums[i % size_t(count)] += partials[i];
  for (double& x : sums) x /= double(n);
  return sums;
}

// norm(w - rate d)^2 for every rate.
Parabola point(const Trials& t, DType dtype, int64_t dim, int threads) {
  std::vector<Parabola> parts(chunks_of(dim));
  parallel_for(int64_t(parts.size()), dim, threads, [&](int64_t c) {
    const int64_t first = chunk_begin(uint32_t(c));
    const LineJob job{&t, first, chunk_end(uint32_t(c), dim) - first, &parts[size_t(c)]};
    dtype == DType::f32 ? line_float(job) : line_double(job);
  });
  Parabola sum{0, 0, 0};
  for (const Parabola& part : parts) sum.add(part);
  return sum;
}

}  // namespace

void finish_trials(const Trials& t, DType dtype, const std::vector<double>& losses, int64_t dim,
                   int threads) {
  dtype == DType::f32 ? finish<float>(t, losses, dim, threads)
                      : finish<double>(t, losses, dim, threads);
}

void regression_trials(const Regression& o, const Trials& t, int threads) {
  const int64_t rows = rows_of_block(o.dim), blocks = (o.n + rows - 1) / rows;
  const auto first = [&](int64_t b) { return b * rows; };
  const auto length = [&](int64_t b) { return std::min(rows, o.n - b * rows); };
  if (o.logistic) {
    std::vector<double> partials(size_t(blocks * t.count));
    parallel_for(blocks, o.n * (o.dim + 8 * t.count), threads, [&](int64_t b) {
      const LogisticJob job{&o, &t, first(b), length(b), &partials[size_t(b * t.count)]};
      o.dtype == DType::f32 ? logistic_float(job) : logistic_double(job);
    });
    finish_trials(t, o.dtype, means(partials, t.count, o.n), o.dim, threads);
    return;
  }
  std::vector<Parabola> parts(static_cast<size_t>(blocks));
  parallel_for(blocks, o.n * o.dim, threads, [&](int64_t b) {
    const LeastSquaresJob job{&o, &t, first(b), length(b), &parts[size_t(b)]};
    o.dtype == DType::f32 ? least_squares_float(job) : least_squares_double(job);
  });
  Parabola residual{0, 0, 0};
  for (const Parabola& part : parts) residual.add(part);
  const Parabola square = o.lam != 0 ? point(t, o.dtype, o.dim, threads) : Parabola{0, 0, 0};
  std::vector<double> losses;
  for (int64_t k = 0; k < t.count; ++k) {
    const double rate = rate_at(t, o.dtype, k);
    losses.push_back(trapped_loss(residual.at(rate), square.at(rate), double(o.n), o.lam, o.kappa));
  }
  finish_trials(t, o.dtype, losses, o.dim, threads);
}

void net_trials(const NetTrials& net, const Trials& t, int64_t dim, int threads) {
  const int64_t blocks = (net.n + kNetRows - 1) / kNetRows;
  std::vector<double> partials(size_t(blocks * t.count));
  const int64_t work = net.n * net.hidden * (net.outputs + 2) * t.count;
  parallel_for(blocks, work, threads, [&](int64_t b) {
    const int64_t first = b * kNetRows;
    const NetJob job{&net, &t, first, std::min(kNetRows, net.n - first),
                     &partials[size_t(b * t.count)]};
    net.dtype == DType::f32 ? net_float(job) : net_double(job);
  });
  finish_trials(t, net.dtype, means(partials, t.count, net.n), dim, threads);
}

}  // namespace unstuck::cpu
