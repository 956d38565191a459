// A layer is evaluated kUnits units at a time: their weights are made, meet all rows of data, and
// are forgotten. What is linear in the parameters, the first layer's products, is made once for all
// candidates of a line, and once for both of a pair of opposite noise.
#include "cpu/mlp.hpp"

#include <algorithm>

#include "core/parallel.hpp"
#include "cpu/mlp_gradient.hpp"
#include "cpu/mlp_source.hpp"

namespace unstuck::cpu {

namespace {

// The first layer at one parameter vector, for all rows.
template <class R>
std::vector<R> first_layer(const MlpData& net, const Panels<R>& data, const R* w, int threads) {
  constexpr int64_t N = kPanel<R>;
  const MlpLayer& l = net.layers.front();
  std::vector<R> out(size_t(data.blocks * l.out * N));
  parallel_for((l.out + kUnits - 1) / kUnits, l.out * l.in * net.n, threads, [&](int64_t part) {
    const int64_t u = part * kUnits, rows = std::min(kUnits, l.out - u);
    for (int64_t b = 0; b < data.blocks; ++b)
      multiply(Product<R>{w + l.weight + u * l.in, l.in, 1, data.x.data() + b * l.in * N, N,
                          out.data() + (b * l.out + u) * N, N,
                          l.bias < 0 ? nullptr : w + l.bias + u, rows, l.in, false});
  });
  return out;
}

// One or two parameter vectors on their way through the net.
template <class R, class Source>
class Pass {
  static constexpr int64_t N = kPanel<R>;

 public:
  Pass(const MlpData& net, const Panels<R>& data, Source& source, MlpMemory<R>& memory)
      : net_(net), data_(data), source_(source), memory_(memory) {}

  // Adds the losses of `blocks` panels from `first` on to sums[together].
  void losses(int64_t first, int64_t blocks, bool slopes, double* sums) {
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      for (int s = 0; s < source_.together(); ++s)
        memory_.active[s][l].resize(size_t(blocks * net_.layers[l].out * N));
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
    if (keep) memory_.before[l].resize(size_t(blocks * m.out * N));
    for (int64_t u = 0; u < m.out; u += kUnits) {
      const int64_t rows = std::min(kUnits, m.out - u);
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
    }
  }

  // The first layer from its products at the base and along a change.
  void start(int64_t first, int64_t blocks) {
    const MlpLayer& m = net_.layers.front();
    memory_.change.resize(size_t(kUnits * N));
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
    return panel_loss(net_.loss,
                      LossPanel<R>{memory_.active[s].back().data() + b * outputs * N,
                                   classes ? nullptr : data_.y.data() + (first + b) * outputs * N,
                                   classes ? static_cast<const int64_t*>(net_.y) + row : nullptr,
                                   outputs, std::min(N, net_.n - row), R(net_.factor), slopes});
  }

  const MlpData& net_;
  const Panels<R>& data_;
  Source& source_;
  MlpMemory<R>& memory_;
};

// Evaluates what a source stands for, some rows at a time, and writes its losses.
template <class R, class Source>
void evaluate(const MlpData& net, const Panels<R>& data, Source& source, MlpMemory<R>& memory,
              double* sums, R* gradient = nullptr) {
  Pass<R, Source> pass(net, data, source, memory);
  for (int64_t first = 0; first < data.blocks; first += Panels<R>::kBlocks) {
    const int64_t blocks = std::min(Panels<R>::kBlocks, data.blocks - first);
    pass.losses(first, blocks, gradient != nullptr, sums);
    if constexpr (Source::kDifferentiable)
      if (gradient) mlp_gradient(net, data, source.point(), first, blocks, memory, gradient);
  }
}

template <class R>
MlpMemory<R>& memory_for(const MlpData& net) {
  thread_local MlpMemory<R> memory;  // kept between calls
  memory.fit(net);
  return memory;
}

template <class R>
int64_t work(const MlpData& net, int64_t count) {
  return count * net.dim * std::min<int64_t>(net.n, 64);
}

}  // namespace

template <class R>
void mlp_points(const MlpData& net, const R* points, int64_t count, R* losses, R* gradients,
                int threads) {
  const Panels<R> data(net, gradients != nullptr);
  parallel_for(count, work<R>(net, count), threads, [&](int64_t i) {
    PointSource<R> source(points + i * net.dim);
    double sum = 0;
    R* gradient = gradients ? gradients + i * net.dim : nullptr;
    if (gradient) std::fill_n(gradient, net.dim, R(0));
    MlpMemory<R>& memory = memory_for<R>(net);
    evaluate(net, data, source, memory, &sum, gradient);
    memory.trim();
    losses[i] = R(sum * net.factor);
  });
}

template <class R>
void mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count, R* losses,
              int threads) {
  const Panels<R> data(net, false);
  const std::vector<R> base = first_layer(net, data, w, threads),
                       along = first_layer(net, data, d, threads);
  parallel_for(count, work<R>(net, count), threads, [&](int64_t k) {
    MlpMemory<R>& memory = memory_for<R>(net);
    LineSource<R> source(w, d, rates[k], base.data(), along.data(), memory);
    double sum = 0;
    evaluate(net, data, source, memory, &sum);
    memory.trim();
    losses[k] = R(sum * net.factor);
  });
}

template <class R>
void mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                    int64_t count, R* losses, int threads) {
  const Panels<R> data(net, false);
  std::vector<R> base;
  if (region.bound == Bound::none) base = first_layer(net, data, region.mean, threads);
  const int64_t share = draw.antithetic ? 2 : 1, units = (count + share - 1) / share;
  parallel_for(units, work<R>(net, count), threads, [&](int64_t unit) {
    MlpMemory<R>& memory = memory_for<R>(net);
    const int64_t first = unit * share, together = std::min(share, count - first);
    RegionSource<R> source(region, draw, unit, int(together), base.empty() ? nullptr : base.data(),
                           memory);
    double sums[2] = {};
    evaluate(net, data, source, memory, sums);
    memory.trim();
    for (int64_t s = 0; s < together; ++s) losses[first + s] = R(sums[s] * net.factor);
  });
}

#define UNSTUCK_MLP(R)                                                                             \
  template void mlp_points(const MlpData&, const R*, int64_t, R*, R*, int);                        \
  template void mlp_line(const MlpData&, const R*, const R*, const R*, int64_t, R*, int);          \
  template void mlp_candidates(const MlpData&, const RegionView<R>&, const DrawView&, int64_t, R*, \
                               int);
UNSTUCK_MLP(float)
UNSTUCK_MLP(double)

}  // namespace unstuck::cpu
