// The transposition and the elementwise parts of a multi-layer perceptron.
#pragma once
#include <vector>

#include "cpu/mlp.hpp"
#include "cpu/products.hpp"

namespace unstuck::cpu {

// to[c * to_row + r] = from[r * from_row + c] for r < rows and c < columns.
void transpose(const float* from, int64_t rows, int64_t columns, int64_t from_row, float* to,
               int64_t to_row);
void transpose(const double* from, int64_t rows, int64_t columns, int64_t from_row, double* to,
               int64_t to_row);

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
