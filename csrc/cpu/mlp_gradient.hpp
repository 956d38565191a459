// The gradient of a multi-layer perceptron, from the slopes of the loss that stand in the place of
// its outputs:
//
//   dW = slopes h^T,  db = slopes 1,  slopes <- (W^T slopes) activation'
#pragma once
#include <algorithm>

#include "cpu/mlp_losses.hpp"
#include "cpu/mlp_source.hpp"

namespace unstuck::cpu {

// Adds the slopes [out] of weights to `to` [out, in], where rows of `h` are padded.
template <class R>
void add_weight_slopes(const MlpLayer& m, const R* turned, int64_t rows, const R* h, int64_t padded,
                       std::vector<R>& tile, R* to) {
  constexpr int64_t N = kPanel<R>;
  tile.resize(size_t(kUnits * N));
  for (int64_t u = 0; u < m.out; u += kUnits) {
    const int64_t units = std::min(kUnits, m.out - u);
    for (int64_t k = 0; k < m.in; k += N) {
      const bool whole = k + N <= m.in;
      R* c = whole ? to + u * m.in + k : tile.data();
      multiply(Product<R>{turned + u * rows, rows, 1, h + k, padded, c, whole ? m.in : N, nullptr,
                          units, rows, whole});
      for (int64_t i = 0; !whole && i < units; ++i)
        for (int64_t j = 0; j < m.in - k; ++j) to[(u + i) * m.in + k + j] += c[i * N + j];
    }
  }
}

template <class R>
void mlp_gradient(const MlpData& net, const Panels<R>& data, const R* point, int64_t first,
                  int64_t blocks, MlpMemory<R>& memory, R* gradient) {
  constexpr int64_t N = kPanel<R>;
  const int64_t rows = blocks * N;
  memory.slopes.swap(memory.active[0].back());
  for (size_t l = net.layers.size(); l-- > 0;) {
    const MlpLayer& m = net.layers[l];
    R* slopes = memory.slopes.data();
    if (m.activation != Activation::none) {
      const bool last = l + 1 == net.layers.size();
      const auto& h =
          last || !slope_from_value(m.activation) ? memory.before[l] : memory.active[0][l];
      through(m.activation, blocks * m.out * N, h.data(), slopes);
    }
    memory.turned.resize(size_t(m.out * rows));
    for (int64_t u = 0; u < m.out; ++u) {
      R* line = memory.turned.data() + u * rows;
      for (int64_t b = 0; b < blocks; ++b)
        std::copy_n(slopes + (b * m.out + u) * N, N, line + b * N);
      double sum = 0;
      for (int64_t i = 0; m.bias >= 0 && i < rows; ++i) sum += double(line[i]);
      if (m.bias >= 0) gradient[m.bias + u] += R(sum);
    }
    const R* h = data.rows.data() + first * N * data.padded;
    int64_t padded = data.padded;
    if (l) {
      padded = (m.in + N - 1) / N * N;
      memory.rows.resize(size_t(rows * padded));
      unpack(memory.active[0][l - 1].data(), blocks, m.in, padded, memory.rows.data());
      h = memory.rows.data();
    }
    add_weight_slopes(m, memory.turned.data(), rows, h, padded, memory.tile, gradient + m.weight);
    if (!l) break;
    memory.next.resize(size_t(blocks * m.in * N));
    for (int64_t k = 0; k < m.in; k += kUnits)
      for (int64_t b = 0; b < blocks; ++b)
        multiply(Product<R>{point + m.weight + k, 1, m.in, slopes + b * m.out * N, N,
                            memory.next.data() + (b * m.in + k) * N, N, nullptr,
                            std::min(kUnits, m.in - k), m.out, false});
    memory.slopes.swap(memory.next);
  }
}

}  // namespace unstuck::cpu
