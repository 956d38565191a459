// A layer is evaluated kUnits units at a time: their weights are made, meet all rows of data, and
// are forgotten. What is linear in the parameters, the first layer's products, is made once for all
// candidates of a line, and once for both of a pair of opposite noise.
#include "cpu/mlp.hpp"

#include <algorithm>

#include "cpu/mlp_gradient.hpp"
#include "cpu/mlp_source.hpp"

namespace unstuck::cpu {

namespace {

// The first layer at one parameter vector, for all rows.
template <class R>
Buffer<R> first_layer(const MlpData& net, const Panels<R>& data, const R* w, const Team<R>& team) {
  constexpr int64_t N = kPanel<R>;
  const MlpLayer& l = net.layers.front();
  Buffer<R> out(size_t(data.blocks * l.out * N));
  const auto tile = [&](int64_t part, MlpMemory<R>&) {
    const int64_t u = part * kUnits, rows = std::min(kUnits, l.out - u);
    for (int64_t b = 0; b < data.blocks; ++b)
      multiply(Product<R>{w + l.weight + u * l.in, l.in, 1, data.x.data() + b * l.in * N, N,
                          out.data() + (b * l.out + u) * N, N,
                          l.bias < 0 ? nullptr : w + l.bias + u, rows, l.in, false});
  };
  team.each((l.out + kUnits - 1) / kUnits, l.out * l.in * net.n, tile);
  return out;
}

// One or two parameter vectors on their way through the net.
template <class R, class Source>
class Pass {
  static constexpr int64_t N = kPanel<R>;

 public:
  Pass(const MlpData& net, const Panels<R>& data, Source& source, const Team<R>& team)
      : net_(net), data_(data), source_(source), team_(team), memory_(*team.memory) {}

  // Adds the losses of `blocks` panels from `first` on to sums[together].
  void losses(int64_t first, int64_t blocks, bool slopes, double* sums) {
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      if (l == 0 && source_.base())
        start(first, blocks);
      else
        layer(l, first, blocks, slopes);
    }
    for (int s = 0; s < source_.together(); ++s)
      for (int64_t b = 0; b < blocks; ++b) sums[s] += panel(s, first, b, slopes);
  }

 private:
  void layer(size_t l, int64_t first, int64_t blocks, bool slopes) {
    const MlpLayer& m = net_.layers[l];
    const bool keep = slopes && (!slope_from_value(m.activation) ||
                                 (l + 1 == net_.layers.size() && m.activation != Activation::none));
    const auto tile = [&](int64_t part, MlpMemory<R>&) {
      const int64_t u = part * kUnits, rows = std::min(kUnits, m.out - u);
      for (int s = 0; s < source_.together(); ++s) {
        const R* w = source_.weights(s, m.weight + u * m.in, rows * m.in);
        const R* bias = m.bias < 0 ? nullptr : source_.biases(s, m.bias + u, rows);
        const R* in = l ? memory_.active[s][l - 1].data() : data_.x.data() + first * m.in * N;
        for (int64_t b = 0; b < blocks; ++b) {
          const int64_t at = (b * m.out + u) * N;
          R* out = memory_.active[s][l].data() + at;
          multiply(Product<R>{w, m.in, 1, in + b * m.in * N, N, out, N, bias, rows, m.in, false});
          if (keep && !slope_from_value(m.activation))
            std::copy_n(out, rows * N, memory_.before[l].data() + at);
          activate(m.activation, rows * N, out);
          if (keep && slope_from_value(m.activation))
            std::copy_n(out, rows * N, memory_.before[l].data() + at);
        }
      }
    };
    team_.each((m.out + kUnits - 1) / kUnits, m.out * m.in * blocks * N, tile);
  }

  // The first layer from its products at the base and along a change.
  void start(int64_t first, int64_t blocks) {
    const MlpLayer& m = net_.layers.front();
    for (int64_t u = 0; u < m.out; u += kUnits) {
      const int64_t rows = std::min(kUnits, m.out - u);
      const R* along = source_.along();
      const R *w = nullptr, *bias = nullptr;
      if (!along) {
        w = source_.change(m.weight + u * m.in, rows * m.in);
        if (m.bias >= 0) bias = source_.bias_change(m.bias + u, rows);
      }
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t from = ((first + b) * m.out + u) * N;
        const R* slope = along ? along + from : memory_.change.data();
        if (!along)
          multiply(Product<R>{w, m.in, 1, data_.x.data() + (first + b) * m.in * N, N,
                              memory_.change.data(), N, bias, rows, m.in, false});
        for (int s = 0; s < source_.together(); ++s)
          activate_step(m.activation, rows * N, source_.base() + from, slope, source_.step(s),
                        memory_.active[s][0].data() + (b * m.out + u) * N);
      }
    }
  }

  double panel(int s, int64_t first, int64_t b, bool slopes) {
    const int64_t outputs = net_.outputs(), row = (first + b) * N;
    const bool classes = net_.loss == MlpLoss::cross_entropy;
    return panel_loss(
        net_.loss, LossPanel<R>{memory_.active[s][net_.layers.size() - 1].data() + b * outputs * N,
                                classes ? nullptr : data_.y.data() + (first + b) * outputs * N,
                                classes ? static_cast<const int64_t*>(net_.y) + row : nullptr,
                                outputs, std::min(N, net_.n - row), R(net_.factor), slopes});
  }

  const MlpData& net_;
  const Panels<R>& data_;
  Source& source_;
  const Team<R>& team_;  // more than one thread where sources have no memory
  MlpMemory<R>& memory_;
};

// Evaluates what a source stands for, some rows at a time, and adds its losses to `sums`.
template <class R, class Source>
void evaluate(const MlpData& net, const Panels<R>& data, Source& source, const Team<R>& team,
              double* sums, const Descent<R>* descent = nullptr) {
  constexpr int64_t most = MlpMemory<R>::kBlocks, N = kPanel<R>;
  Pass<R, Source> pass(net, data, source, team);
  for (int64_t first = 0; first < data.blocks; first += most) {
    const int64_t blocks = std::min(most, data.blocks - first), row = first * N;
    pass.losses(first, blocks, descent != nullptr, sums);
    if (!descent) continue;
    const int64_t rows = std::min(blocks * N, net.n - row);
    Backward<R>{net, data,   *descent, team,       *team.memory,
                row, blocks, rows,     first == 0, first + most >= data.blocks}
        .run();
  }
}

// body(i, team) for every point: a thread has one of its own, but the last ones, which are fewer
// than threads, are shared if that is sooner.
template <class R, class Body>
void each_point(int64_t count, int64_t work, const Team<R>& team, const Body& body) {
  int64_t shared = count % team.threads;
  if (2 * shared > team.threads) shared = 0;
  const auto alone = [&](int64_t i, MlpMemory<R>& memory) { body(i, Team<R>{&memory, 1}); };
  team.each(count - shared, work * (count - shared), alone);
  for (int64_t i = count - shared; i < count; ++i) body(i, team);
}

// Whether layers, which share nothing, hold every number of a vector.
bool covers(const MlpData& net) {
  int64_t numbers = 0;
  for (const MlpLayer& l : net.layers) numbers += l.out * (l.in + (l.bias >= 0));
  return numbers == net.dim;
}

}  // namespace

template <class R>
void mlp_points(const MlpData& net, const R* points, int64_t count, R* losses, R* gradients,
                int threads) {
  Workplace<R> place(net, count, threads, 1, gradients != nullptr);
  if (gradients && !covers(net)) std::fill_n(gradients, count * net.dim, R(0));
  const auto one = [&](int64_t i, const Team<R>& team) {
    PointSource<R> source(points + i * net.dim);
    const Descent<R> kept{source.point(),
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr,
                          false,
                          gradients ? gradients + i * net.dim : nullptr};
    double sum = 0;
    evaluate(net, place.data, source, team, &sum, gradients ? &kept : nullptr);
    losses[i] = R(sum * net.factor);
  };
  each_point(count, mlp_work(net, net.n), place.team, one);
}

template <class R>
void mlp_descend(const MlpData& net, R* points, R* m, R* v, int64_t count,
                 const std::vector<AdamCoefs<double>>& coefs, bool fresh, R* losses, int threads) {
  const bool whole = panels_of<R>(net.n) <= MlpMemory<R>::kBlocks;  // all rows at once
  Workplace<R> place(net, count, threads, 1, true, whole ? 0 : net.dim);
  const auto one = [&](int64_t i, const Team<R>& team) {
    const int64_t at = i * net.dim;
    PointSource<R> source(points + at);
    const Descent<R> descent{points + at,
                             points + at,
                             m + at,
                             v + at,
                             coefs.data(),
                             fresh,
                             whole ? nullptr : team.memory->piece.data()};
    double sum = 0;
    evaluate(net, place.data, source, team, &sum, &descent);
    losses[i] = R(sum * net.factor);
  };
  each_point(count, mlp_work(net, net.n), place.team, one);
}

template <class R>
void mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count, R* losses,
              int threads) {
  Workplace<R> place(net, count, threads);
  const Buffer<R> base = first_layer(net, place.data, w, place.team),
                  along = first_layer(net, place.data, d, place.team);
  const auto one = [&](int64_t k, MlpMemory<R>& memory) {
    LineSource<R> source(w, d, rates[k], base.data(), along.data(), memory);
    double sum = 0;
    evaluate(net, place.data, source, Team<R>{&memory, 1}, &sum);
    losses[k] = R(sum * net.factor);
  };
  place.team.each(count, mlp_work(net, net.n) * count, one);
}

template <class R>
void mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                    int64_t count, R* losses, int threads) {
  const int64_t share = draw.antithetic ? 2 : 1, units = (count + share - 1) / share;
  Workplace<R> place(net, count, threads, int(share));
  Buffer<R> base;
  if (region.bound == Bound::none) base = first_layer(net, place.data, region.mean, place.team);
  const auto one = [&](int64_t unit, MlpMemory<R>& memory) {
    const int64_t first = unit * share, together = std::min(share, count - first);
    RegionSource<R> source(region, draw, unit, int(together), base.empty() ? nullptr : base.data(),
                           memory);
    double sums[2] = {};
    evaluate(net, place.data, source, Team<R>{&memory, 1}, sums);
    for (int64_t s = 0; s < together; ++s) losses[first + s] = R(sums[s] * net.factor);
  };
  place.team.each(units, mlp_work(net, net.n) * count, one);
}

#define UNSTUCK_MLP(R)                                                                             \
  template void mlp_points(const MlpData&, const R*, int64_t, R*, R*, int);                        \
  template void mlp_descend(const MlpData&, R*, R*, R*, int64_t,                                   \
                            const std::vector<AdamCoefs<double>>&, bool, R*, int);                 \
  template void mlp_line(const MlpData&, const R*, const R*, const R*, int64_t, R*, int);          \
  template void mlp_candidates(const MlpData&, const RegionView<R>&, const DrawView&, int64_t, R*, \
                               int);
UNSTUCK_MLP(float)
UNSTUCK_MLP(double)

}  // namespace unstuck::cpu
