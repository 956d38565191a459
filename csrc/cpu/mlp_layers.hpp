// Rows of data in panels, and the elementwise parts of a multi-layer perceptron.
#pragma once
#include <vector>

#include "cpu/mlp.hpp"
#include "cpu/products.hpp"

namespace unstuck::cpu {

// Rows of data beside each other: panel b holds columns [0, columns) of kPanel rows as
// [columns, kPanel], zeros where there is no row.
template <class R>
void pack(const R* rows, int64_t n, int64_t columns, int64_t stride, std::vector<R>& panels);
// The same rows one after the other, with `padded` columns, zeros where there is none.
template <class R>
void unpack(const R* panels, int64_t blocks, int64_t columns, int64_t padded, R* rows);

// h <- activation(h)
void activate(Activation a, int64_t n, float* h);
void activate(Activation a, int64_t n, double* h);
// h <- activation(base + step slope)
void activate_step(Activation a, int64_t n, const float* base, const float* slope, float step,
                   float* h);
void activate_step(Activation a, int64_t n, const double* base, const double* slope, double step,
                   double* h);
// slopes *= activation'(h), from the activation or from what was activated: slope_from_value()
void through(Activation a, int64_t n, const float* h, float* slopes);
void through(Activation a, int64_t n, const double* h, double* slopes);

// The sum of losses over the first `rows` lanes of a panel, with slopes in place where wanted.
template <class R>
struct LossPanel;
double panel_loss(MlpLoss loss, const LossPanel<float>& panel);
double panel_loss(MlpLoss loss, const LossPanel<double>& panel);

}  // namespace unstuck::cpu
