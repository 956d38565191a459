// A multi-layer perceptron on CUDA: as many candidates and rows at a time as the workspace holds
// the activations of. What is linear in the parameters, the first layer's products, is made once
// for all candidates of a line, and once for both of a pair of opposite noise. The rows are cut by
// the net alone, so that a loss does not depend on how many candidates there are.
#include "cuda/mlp.hpp"

#include <algorithm>

#include "cuda/mlp_layers.hpp"

namespace unstuck::cuda {

namespace {

// Numbers of activations: of the rows that one candidate has at a time, and of all at a time.
constexpr int64_t kNumbersOfRows = int64_t(1) << 20, kNumbers = int64_t(1) << 22;
constexpr int64_t kRowTile = 128, kMostCandidates = int64_t(1) << 15;

// How the work is cut, and what stands where in the workspace: sums [count], what all candidates
// share, and activations [width][chunk, rows].
struct MlpCut {
  const MlpData& net;
  MlpKind kind;
  int64_t width = 0;   // numbers that a row of one candidate takes
  int64_t shared = 0;  // that a row takes for all
  int64_t rows, chunk;
  int64_t second = 0;  // where outputs of odd layers, or slopes, begin

  MlpCut(const MlpData& o, MlpKind what, int64_t count) : net(o), kind(what) {
    const MlpLayer& first = net.layers.front();
    if (kind == MlpKind::candidates) shared = first.out;
    if (kind == MlpKind::line) shared = 2 * first.out;
    if (gradients()) {
      for (const MlpLayer& l : net.layers) second += l.out * (keeps_before(l) ? 2 : 1);
      width = second + 2 * widest(0, 1);
    } else {
      second = widest(0, 2);
      width = second + widest(1, 2);
    }
    const int64_t fit = kNumbersOfRows / width / kRowTile * kRowTile;
    rows = std::min(net.n, std::max(fit, kRowTile));
    chunk = std::min(kNumbers / (width * rows), kMostCandidates) / 2 * 2;  // pairs stay together
    chunk = std::min(std::max<int64_t>(chunk, 2), std::max<int64_t>(count, 1));
  }
  bool gradients() const { return kind == MlpKind::gradients; }
  static bool keeps_before(const MlpLayer& l) { return !slope_from_value(l.activation); }
  int64_t widest(size_t first, size_t step) const {
    int64_t most = 0;
    for (size_t l = first; l < net.layers.size(); l += step)
      most = std::max(most, net.layers[l].out);
    return most;
  }
  // float64 numbers
  int64_t shared_size(int64_t bytes) const { return (shared * rows * bytes + 7) / 8; }
  int64_t active_size(int64_t bytes) const { return (width * rows * chunk * bytes + 7) / 8; }
};

#define UNSTUCK_TRY(call)                       \
  do {                                          \
    if (const int error = (call)) return error; \
  } while (false)

template <class R>
class MlpRun {
 public:
  MlpRun(const MlpData& net, MlpKind kind, int64_t count, R* losses, double* workspace,
         void* stream)
      : net_(net),
        cut_(net, kind, count),
        count_(count),
        losses_(losses),
        sums_(workspace),
        base_(reinterpret_cast<R*>(workspace + count)),
        active_(reinterpret_cast<R*>(workspace + count + cut_.shared_size(sizeof(R)))),
        stream_(static_cast<cudaStream_t>(stream)) {}

  int points(const R* points, R* gradients) {
    const PointWeights<R> source{points, net_.dim};
    return slabs([] { return 0; },
                 [&] {
                   UNSTUCK_TRY(layers(0, source));
                   UNSTUCK_TRY(losses());
                   return gradients ? slopes(points, gradients) : 0;
                 });
  }

  int candidates(const RegionView<R>& region, const DrawView& draw) {
    const RegionWeights<R> source{region, draw};
    if (region.bound != Bound::none)
      return slabs([] { return 0; },
                   [&] {
                     UNSTUCK_TRY(layers(0, source));
                     return losses();
                   });
    const ChangeWeights<R> change{region, draw};
    return slabs([&] { return products(region.mean, base_); },
                 [&] {
                   UNSTUCK_TRY(layer(0, change));
                   UNSTUCK_TRY(layers(1, source));
                   return losses();
                 });
  }

  int line(const R* w, const R* d, const R* rates) {
    const LineWeights<R> source{w, d, rates};
    const MlpLayer& m = net_.layers.front();
    R* along = base_ + cut_.rows * m.out;
    return slabs(
        [&] {
          UNSTUCK_TRY(products(w, base_));
          return products(d, along);
        },
        [&] {
          UNSTUCK_TRY(line_pass(m.activation, base_, along, rates + first_, rows_ * m.out, some_,
                                output(0), stream_));
          UNSTUCK_TRY(layers(1, source));
          return losses();
        });
  }

 private:
  // For some rows after the others, what all candidates share, and then some candidates after the
  // others.
  template <class Shared, class Each>
  int slabs(const Shared& shared, const Each& each) {
    for (start_ = 0; count_ && start_ < net_.n; start_ += cut_.rows) {
      rows_ = std::min(cut_.rows, net_.n - start_);
      UNSTUCK_TRY(shared());
      for (first_ = 0; first_ < count_; first_ += cut_.chunk) {
        some_ = std::min(cut_.chunk, count_ - first_);
        UNSTUCK_TRY(each());
      }
    }
    return 0;
  }

  R* part(int64_t width) { return active_ + width * cut_.rows * cut_.chunk; }
  // Outputs of a layer [candidates, rows, out], and what was activated where slopes want that.
  R* output(size_t l) {
    if (!cut_.gradients()) return part(l % 2 ? cut_.second : 0);
    int64_t place = 0;
    for (size_t i = 0; i < l; ++i)
      place += net_.layers[i].out * (MlpCut::keeps_before(net_.layers[i]) ? 2 : 1);
    return part(place);
  }
  R* before(size_t l) {
    const MlpLayer& m = net_.layers[l];
    if (!cut_.gradients() || !MlpCut::keeps_before(m)) return nullptr;
    return output(l) + m.out * cut_.rows * cut_.chunk;
  }
  const R* slope_source(size_t l) { return before(l) ? before(l) : output(l); }

  Panel<const R> input(size_t l) {
    if (l == 0) return {static_cast<const R*>(net_.x) + start_ * net_.stride, net_.stride, 0};
    const int64_t width = net_.layers[l].in;
    return {output(l - 1), width, rows_ * width};
  }

  // The first layer's products at one vector, the same for all candidates.
  int products(const R* w, R* to) {
    MlpLayer plain = net_.layers.front();
    plain.activation = Activation::none;
    return layer_pass(LayerPass<R>{plain, input(0), to, nullptr, nullptr, rows_, 0, 1},
                      PointWeights<R>{w, net_.dim}, stream_);
  }
  template <class Source>
  int layer(size_t l, const Source& source) {
    return layer_pass(
        LayerPass<R>{net_.layers[l], input(l), output(l), before(l), base_, rows_, first_, some_},
        source, stream_);
  }
  template <class Source>
  int layers(size_t from, const Source& source) {
    for (size_t l = from; l < net_.layers.size(); ++l) UNSTUCK_TRY(layer(l, source));
    return 0;
  }

  R* slope_memory(size_t l) { return part(cut_.second + l % 2 * cut_.widest(0, 1)); }
  int losses() {
    const size_t last = net_.layers.size() - 1;
    const int64_t outputs = net_.outputs();
    const void* y = net_.loss == MlpLoss::cross_entropy
                        ? static_cast<const void*>(static_cast<const int64_t*>(net_.y) + start_)
                        : static_cast<const R*>(net_.y) + start_ * outputs;
    return loss_pass(
        LossPass<R>{net_.loss, net_.factor, y, output(last),
                    cut_.gradients() ? slope_memory(last) : nullptr, slope_source(last),
                    net_.layers[last].activation, rows_, outputs, some_, start_ == 0,
                    start_ + rows_ == net_.n, sums_ + first_, losses_ + first_},
        stream_);
  }
  int slopes(const R* points, R* gradients) {
    for (size_t l = net_.layers.size(); l-- > 0;)
      UNSTUCK_TRY(slope_pass(
          SlopePass<R>{net_.layers[l], input(l), slope_memory(l), l ? slope_memory(l - 1) : nullptr,
                       l ? slope_source(l - 1) : nullptr,
                       l ? net_.layers[l - 1].activation : Activation::none,
                       points + first_ * net_.dim, gradients + first_ * net_.dim, rows_, some_,
                       net_.dim},
          stream_));
    return 0;
  }

  const MlpData& net_;
  MlpCut cut_;
  int64_t count_, start_ = 0, rows_ = 0, first_ = 0, some_ = 0;
  R* losses_;
  double* sums_;
  R *base_, *active_;
  cudaStream_t stream_;
};

}  // namespace

int64_t mlp_workspace(const MlpData& net, int64_t number_bytes, MlpKind kind, int64_t count) {
  const MlpCut cut(net, kind, count);
  return count + cut.shared_size(number_bytes) + cut.active_size(number_bytes);
}

template <class R>
int mlp_points(const MlpData& net, const R* points, int64_t count, R* losses, R* gradients,
               double* workspace, void* stream) {
  if (gradients) {
    const size_t bytes = size_t(count * net.dim) * sizeof(R);
    UNSTUCK_TRY(cudaMemsetAsync(gradients, 0, bytes, static_cast<cudaStream_t>(stream)));
  }
  const MlpKind kind = gradients ? MlpKind::gradients : MlpKind::points;
  return MlpRun<R>(net, kind, count, losses, workspace, stream).points(points, gradients);
}

template <class R>
int mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                   int64_t count, R* losses, double* workspace, void* stream) {
  return MlpRun<R>(net, MlpKind::candidates, count, losses, workspace, stream)
      .candidates(region, draw);
}

template <class R>
int mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count, R* losses,
             double* workspace, void* stream) {
  return MlpRun<R>(net, MlpKind::line, count, losses, workspace, stream).line(w, d, rates);
}

#define UNSTUCK_MLP(R)                                                                            \
  template int mlp_points(const MlpData&, const R*, int64_t, R*, R*, double*, void*);             \
  template int mlp_line(const MlpData&, const R*, const R*, const R*, int64_t, R*, double*,       \
                        void*);                                                                   \
  template int mlp_candidates(const MlpData&, const RegionView<R>&, const DrawView&, int64_t, R*, \
                              double*, void*);
UNSTUCK_MLP(float)
UNSTUCK_MLP(double)

}  // namespace unstuck::cuda
