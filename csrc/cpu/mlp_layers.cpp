#include "cpu/mlp_layers.hpp"

#include <algorithm>

#include "cpu/mlp_losses.hpp"
#include "cpu/transpose.hpp"

namespace unstuck::cpu {

namespace {

// Whether a formula is plain arithmetic; in float64 some call functions of the C library.
template <Activation a, class R>
constexpr bool kArithmetic = sizeof(R) == 4 || (slope_from_value(a) && a != Activation::tanh);

// body(i) for i < n, in vector registers where that can be done.
template <bool kSimd, class Body>
UNSTUCK_INLINE void each(int64_t n, const Body& body) {
  if constexpr (kSimd) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) body(i);
  } else {
    for (int64_t i = 0; i < n; ++i) body(i);
  }
}

template <Activation a, class R>
UNSTUCK_INLINE void activate_with(int64_t n, R* h) {
  each<kArithmetic<a, R>>(n, [&](int64_t i) { h[i] = activated<a>(h[i]); });
}
template <Activation a, class R>
UNSTUCK_INLINE void step_with(int64_t n, const R* base, const R* slope, R step, R* h) {
  each<kArithmetic<a, R>>(n, [&](int64_t i) { h[i] = activated<a>(base[i] + step * slope[i]); });
}
template <Activation a, class R>
UNSTUCK_INLINE void through_with(int64_t n, const R* h, R* slopes) {
  each<slope_from_value(a) || sizeof(R) == 4>(
      n, [&](int64_t i) { slopes[i] *= activation_slope<a>(h[i]); });
}

#define UNSTUCK_EACH_ACTIVATION(call)     \
  switch (a) {                            \
    case Activation::none:                \
      return call(Activation::none);      \
    case Activation::relu:                \
      return call(Activation::relu);      \
    case Activation::tanh:                \
      return call(Activation::tanh);      \
    case Activation::sigmoid:             \
      return call(Activation::sigmoid);   \
    case Activation::gelu:                \
      return call(Activation::gelu);      \
    case Activation::gelu_tanh:           \
      return call(Activation::gelu_tanh); \
  }
#define UNSTUCK_ACTIVATE(which) activate_with<which>(n, h)
#define UNSTUCK_STEP(which) step_with<which>(n, base, slope, step, h)
#define UNSTUCK_THROUGH(which) through_with<which>(n, h, slopes)

namespace entry {
UNSTUCK_CLONES void transpose(const float* from, int64_t rows, int64_t columns, int64_t from_row,
                              float* to, int64_t to_row) {
  turn(from, rows, columns, from_row, to, to_row);
}
UNSTUCK_CLONES void transpose(const double* from, int64_t rows, int64_t columns, int64_t from_row,
                              double* to, int64_t to_row) {
  turn(from, rows, columns, from_row, to, to_row);
}
UNSTUCK_CLONES void activate(Activation a, int64_t n,
                             float* h){UNSTUCK_EACH_ACTIVATION(UNSTUCK_ACTIVATE)} UNSTUCK_CLONES
    void activate(Activation a, int64_t n,
                  double* h){UNSTUCK_EACH_ACTIVATION(UNSTUCK_ACTIVATE)} UNSTUCK_CLONES
    void step(Activation a, int64_t n, const float* base, const float* slope, float step,
              float* h){UNSTUCK_EACH_ACTIVATION(UNSTUCK_STEP)} UNSTUCK_CLONES
    void step(Activation a, int64_t n, const double* base, const double* slope, double step,
              double* h){UNSTUCK_EACH_ACTIVATION(UNSTUCK_STEP)} UNSTUCK_CLONES
    void through(Activation a, int64_t n, const float* h,
                 float* slopes){UNSTUCK_EACH_ACTIVATION(UNSTUCK_THROUGH)} UNSTUCK_CLONES
    void through(Activation a, int64_t n, const double* h, double* slopes) {
  UNSTUCK_EACH_ACTIVATION(UNSTUCK_THROUGH)
}

template <class R>
UNSTUCK_INLINE double loss_with(MlpLoss loss, const LossPanel<R>& p) {
  const double sum = loss == MlpLoss::squared ? squared_panel(p)
                     : loss == MlpLoss::bce   ? bce_panel(p)
                                              : cross_entropy_panel(p);
  for (int64_t c = 0; p.slopes && c < p.outputs; ++c)  // lanes without data have none
    std::fill(p.z + c * kPanel<R> + p.rows, p.z + (c + 1) * kPanel<R>, R(0));
  return sum;
}
UNSTUCK_CLONES double loss(MlpLoss loss, const LossPanel<float>& p) { return loss_with(loss, p); }
UNSTUCK_CLONES double loss(MlpLoss loss, const LossPanel<double>& p) { return loss_with(loss, p); }
}  // namespace entry

}  // namespace

void transpose(const float* from, int64_t rows, int64_t columns, int64_t from_row, float* to,
               int64_t to_row) {
  entry::transpose(from, rows, columns, from_row, to, to_row);
}
void transpose(const double* from, int64_t rows, int64_t columns, int64_t from_row, double* to,
               int64_t to_row) {
  entry::transpose(from, rows, columns, from_row, to, to_row);
}
void activate(Activation a, int64_t n, float* h) { entry::activate(a, n, h); }
void activate(Activation a, int64_t n, double* h) { entry::activate(a, n, h); }
void activate_step(Activation a, int64_t n, const float* base, const float* slope, float step,
                   float* h) {
  entry::step(a, n, base, slope, step, h);
}
void activate_step(Activation a, int64_t n, const double* base, const double* slope, double step,
                   double* h) {
  entry::step(a, n, base, slope, step, h);
}
void through(Activation a, int64_t n, const float* h, float* slopes) {
  entry::through(a, n, h, slopes);
}
void through(Activation a, int64_t n, const double* h, double* slopes) {
  entry::through(a, n, h, slopes);
}
double panel_loss(MlpLoss loss, const LossPanel<float>& p) { return entry::loss(loss, p); }
double panel_loss(MlpLoss loss, const LossPanel<double>& p) { return entry::loss(loss, p); }

}  // namespace unstuck::cpu
