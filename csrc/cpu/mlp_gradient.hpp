// The gradient of a multi-layer perceptron, from the slopes of the loss that stand in the place of
// its outputs:
//
//   dW = slopes h^T,  db = slopes 1,  slopes <- (W^T slopes) activation'
#pragma once
#include <algorithm>

#include "cpu/adam.hpp"
#include "cpu/mlp_losses.hpp"
#include "cpu/mlp_source.hpp"

namespace unstuck::cpu {

// What becomes of the gradient at one point: it is kept, or every piece of it moves the point while
// it is in the cache.
template <class R>
struct Descent {
  const R* point;                  // [dim]
  R *w, *m, *v;                    // the point, to be moved, and its moments; null: it stays
  const AdamCoefs<double>* coefs;  // of the weights and of the biases of each layer
  bool fresh;                      // the moments are 0, whatever is there
  R* gradient;                     // [dim]; null where all rows fit, so that pieces are enough

  R* place(int64_t at, R* piece) const { return gradient ? gradient + at : piece; }
  void done(int64_t at, int64_t n, const R* g, size_t which) const {
    if (w) adam_descent(w + at, g, m + at, v + at, n, coefs[which], fresh);
  }
};

// One layer on its way back: rows [first, first + rows) of the data.
template <class R>
struct Backward {
  static constexpr int64_t N = kPanel<R>;
  const MlpData& net;
  const Panels<R>& data;
  const Descent<R>& descent;
  const Team<R>& team;
  MlpMemory<R>& memory;  // the candidate's
  int64_t first, blocks, rows;
  bool begin, end;  // whether these are the first rows, and the last ones

  // Slopes of a layer [blocks, out, kPanel] as [out, blocks * kPanel], and their sums.
  void turn_slopes(size_t l, const R* slopes) const {
    const MlpLayer& m = net.layers[l];
    R* sums = m.bias < 0 ? nullptr : descent.place(m.bias, memory.bias_piece.data());
    for (int64_t u = 0; u < m.out; ++u) {
      R* line = memory.turned.data() + u * blocks * N;
      R lanes[N] = {};
      for (int64_t b = 0; b < blocks; ++b) {
        const R* from = slopes + (b * m.out + u) * N;
        std::copy_n(from, N, line + b * N);
        const int64_t there = rows - b * N;  // what is not finite in other lanes counts for nothing
        for (int64_t i = 0; i < N; ++i) lanes[i] += i < there ? from[i] : R(0);
      }
      double sum = 0;
      for (const R x : lanes) sum += double(x);
      if (sums) sums[u] = begin ? R(sum) : sums[u] + R(sum);
    }
    if (sums && end) descent.done(m.bias, m.out, sums, 2 * l + 1);
  }

  // Columns [k, k + kPanel) of a layer's inputs, a row after the other.
  const R* inputs(size_t l, int64_t k) const {
    return l ? memory.rows.data() + k * blocks * N : data.rows.data() + k * net.n + first * N;
  }
  // Turns what a layer was given.
  void turn_inputs(size_t l) const {
    const int64_t in = net.layers[l].in;
    for (int64_t k = 0; k < in; k += N)
      for (int64_t b = 0; b < blocks; ++b)
        transpose(memory.active[0][l - 1].data() + (b * in + k) * N, std::min(N, in - k), N, N,
                  memory.rows.data() + (k * blocks + b * N) * N, N);
  }

  void weight_slopes(size_t l) const {
    const MlpLayer& m = net.layers[l];
    if (l) turn_inputs(l);
    const auto tile = [&](int64_t part, MlpMemory<R>& own) {
      const int64_t u = part * kUnits, units = std::min(kUnits, m.out - u);
      const int64_t at = m.weight + u * m.in;
      R* to = descent.place(at, own.piece.data());
      for (int64_t k = 0; k < m.in; k += N) {
        const bool whole = k + N <= m.in;
        multiply(Product<R>{memory.turned.data() + u * blocks * N, blocks * N, 1, inputs(l, k), N,
                            whole ? to + k : own.tile.data(), whole ? m.in : N, nullptr, units,
                            rows, whole && !begin});
        for (int64_t i = 0; !whole && i < units; ++i)
          for (int64_t j = 0; j < m.in - k; ++j) {
            R& g = to[i * m.in + k + j];
            g = begin ? own.tile[size_t(i * N + j)] : g + own.tile[size_t(i * N + j)];
          }
      }
      if (end) descent.done(at, units * m.in, to, 2 * l);
    };
    team.each((m.out + kUnits - 1) / kUnits, m.out * m.in * rows, tile);
  }

  // The slopes of a layer's inputs, which are another layer's outputs.
  void input_slopes(size_t l, const R* slopes, R* to) const {
    const MlpLayer& m = net.layers[l];
    for (int64_t k = 0; k < m.in; k += kUnits)
      for (int64_t b = 0; b < blocks; ++b)
        multiply(Product<R>{descent.point + m.weight + k, 1, m.in, slopes + b * m.out * N, N,
                            to + (b * m.in + k) * N, N, nullptr, std::min(kUnits, m.in - k), m.out,
                            false});
  }

  void run() const {
    R* slopes = memory.active[0][net.layers.size() - 1].data();
    for (size_t l = net.layers.size(); l-- > 0;) {
      const MlpLayer& m = net.layers[l];
      if (m.activation != Activation::none) {
        const bool last = l + 1 == net.layers.size();
        const auto& h =
            last || !slope_from_value(m.activation) ? memory.before[l] : memory.active[0][l];
        through(m.activation, blocks * m.out * N, h.data(), slopes);
      }
      R* next = memory.slopes[l % 2].data();
      if (l) input_slopes(l, slopes, next);
      turn_slopes(l, slopes);
      weight_slopes(l);
      slopes = next;
    }
  }
};

}  // namespace unstuck::cpu
