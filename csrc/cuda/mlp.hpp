// Losses of a multi-layer perceptron at many parameter vectors, whose weights are made as they are
// read: nothing of the size of the parameters is kept for any of them.
#pragma once
#include "candidate_terms.hpp"
#include "mlp_terms.hpp"

namespace unstuck::cuda {

// All functions but the first return a cudaError_t and never wait for the device. A workspace is
// memory on the device, as many float64 numbers as that says; what it holds does not matter.
enum class MlpKind : int { points, gradients, candidates, line };
constexpr int kMlpKinds = 4;
int64_t mlp_workspace(const MlpData& net, int64_t number_bytes, MlpKind kind, int64_t count);

// At `points` [count, dim]; the gradients [count, dim] too, unless null.
template <class R>
int mlp_points(const MlpData& net, const R* points, int64_t count, R* losses, R* gradients,
               double* workspace, void* stream);
template <class R>
int mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                   int64_t count, R* losses, double* workspace, void* stream);
// At w - rates[k] d.
template <class R>
int mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count, R* losses,
             double* workspace, void* stream);

}  // namespace unstuck::cuda
