// Losses of a multi-layer perceptron at many parameter vectors, whose weights are made as they are
// read: nothing of the size of the parameters is kept for any of them.
#pragma once
#include <vector>

#include "candidate_terms.hpp"
#include "math/adam.hpp"
#include "mlp_terms.hpp"

namespace unstuck::cpu {

// At `points` [count, dim]; the gradients [count, dim] too, unless null.
template <class R>
void mlp_points(const MlpData& net, const R* points, int64_t count, R* losses, R* gradients,
                int threads);
// One step of Adam from each of these points, with moments `m` and `v` [count, dim] of their own.
// `losses` are those before the step. `coefs` are of the weights and of the biases of each layer;
// numbers that are in no layer stay as they are. `fresh`: moments are 0, whatever is there.
template <class R>
void mlp_descend(const MlpData& net, R* points, R* m, R* v, int64_t count,
                 const std::vector<AdamCoefs<double>>& coefs, bool fresh, R* losses, int threads);
template <class R>
void mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                    int64_t count, R* losses, int threads);
// At w - rates[k] d; the first layer's products are made once.
template <class R>
void mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count, R* losses,
              int threads);

}  // namespace unstuck::cpu
