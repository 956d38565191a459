// What the threads of one evaluation work in. All of it is there before they start: where memory is
// short, the caller hears of it.
#pragma once
#include <algorithm>
#include <array>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "cpu/buffer.hpp"
#include "cpu/mlp_layers.hpp"
#include "cpu/noise.hpp"

namespace unstuck::cpu {

// Multiplications below which a second thread brings less than it can cost.
constexpr int64_t kMlpGrain = int64_t(1) << 18;

// The multiplications of one parameter vector on `rows` rows, an activation counted as a few.
inline int64_t mlp_work(const MlpData& net, int64_t rows) {
  int64_t numbers = 0;
  for (const MlpLayer& l : net.layers) numbers += l.out * (l.in + 8);
  return numbers * rows;
}

template <class R>
int64_t panels_of(int64_t rows) {
  return (rows + kPanel<R> - 1) / kPanel<R>;
}
template <class R>
int64_t padded(int64_t n) {
  return panels_of<R>(n) * kPanel<R>;
}

// What one thread works in.
template <class R>
struct MlpMemory {
  static constexpr int64_t kBlocks = 1024 / kPanel<R>;  // panels whose activations are kept

  Buffer<R> weights, biases, change;  // of kUnits units
  Buffer<float> noise, bias_noise;    // the same
  Buffer<uint32_t> words;
  std::array<std::vector<Buffer<R>>, 2> active;  // [layer][blocks, out, kPanel]
  std::vector<Buffer<R>> before;    // what slopes are made of where `active` does not have it
  std::array<Buffer<R>, 2> slopes;  // of a layer's inputs
  Buffer<R> turned, rows, tile, piece, bias_piece;  // of the gradient

  // Room for `together` vectors; with slopes, for a gradient of which `kept` numbers are kept.
  void fit(const MlpData& net, int together, bool with_slopes, int64_t kept) {
    const int64_t blocks = std::min(kBlocks, panels_of<R>(net.n)), lanes = blocks * kPanel<R>;
    int64_t in = 1, out = 1, inner = 1;
    for (size_t l = 0; l < net.layers.size(); ++l) {
      in = std::max(in, net.layers[l].in);
      out = std::max(out, net.layers[l].out);
      if (l) inner = std::max(inner, net.layers[l].in);
    }
    const size_t numbers = size_t(kUnits * in), room = numbers + 2 * kNoiseGroup;
    grow(weights, numbers);
    grow(biases, size_t(kUnits));
    grow(change, size_t(kUnits * kPanel<R>));
    grow(noise, room);
    grow(bias_noise, size_t(kUnits) + 2 * kNoiseGroup);
    grow(words, std::max(room, size_t(kUnits) + 2 * kNoiseGroup));
    for (int s = 0; s < together; ++s) layers(net, lanes, active[size_t(s)]);
    if (!with_slopes) return;
    layers(net, lanes, before);
    for (auto& each : slopes) grow(each, size_t(lanes * inner));
    grow(turned, size_t(lanes * out));
    grow(rows, size_t(lanes * padded<R>(inner)));
    grow(tile, size_t(kUnits * kPanel<R>));
    grow(piece, std::max(numbers, size_t(kept)));
    grow(bias_piece, size_t(out));
  }

  size_t bytes() const {
    size_t numbers = weights.size() + noise.size() + words.size() + turned.size() + rows.size() +
                     piece.size() + slopes[0].size() + slopes[1].size();
    for (const auto* layers : {&active[0], &active[1], &before})
      for (const auto& each : *layers) numbers += each.size();
    return numbers * sizeof(R);
  }

 private:
  template <class B>
  static void grow(B& buffer, size_t size) {
    if (buffer.size() < size) B(size).swap(buffer);
  }
  static void layers(const MlpData& net, int64_t lanes, std::vector<Buffer<R>>& all) {
    if (all.size() < net.layers.size()) all.resize(net.layers.size());
    for (size_t l = 0; l < net.layers.size(); ++l) grow(all[l], size_t(lanes * net.layers[l].out));
  }
};

// Threads with their memory.
template <class R>
struct Team {
  MlpMemory<R>* memory;  // of each
  int threads;

  // body(i, memory of the thread) for i < n. Every body writes its own results: who runs what makes
  // no difference. Bodies do not throw.
  template <class Body>
  void each(int64_t n, int64_t work, const Body& body) const {
#ifdef _OPENMP
    if (threads > 1 && n > 1 && work >= kMlpGrain) {
      const int used = int(std::min<int64_t>(threads, n));
#pragma omp parallel for schedule(dynamic, 1) num_threads(used)
      for (int64_t i = 0; i < n; ++i) body(i, memory[omp_get_thread_num()]);
      return;
    }
#endif
    (void)work;
    for (int64_t i = 0; i < n; ++i) body(i, *memory);
  }
};

// Data in panels: panel b holds the columns of kPanel rows as [columns, kPanel], zeros where there
// is no row.
template <class R>
struct Panels {
  int64_t blocks = 0;
  Buffer<R> x, y;
  Buffer<R> rows;  // for gradients: kPanel columns of x after the other, as [n, kPanel]

  void fit(const MlpData& net, bool slopes) {
    blocks = panels_of<R>(net.n);
    const auto size = [&](int64_t columns) { return size_t(blocks * columns * kPanel<R>); };
    x.resize(size(net.features));
    if (net.loss != MlpLoss::cross_entropy) y.resize(size(net.outputs()));
    if (slopes) rows.resize(size_t(net.n * padded<R>(net.features)));
  }
  void fill(const MlpData& net, bool slopes, const Team<R>& team) {
    constexpr int64_t N = kPanel<R>;
    const auto pack = [&](const void* data, int64_t columns, int64_t stride, Buffer<R>& to) {
      team.each(blocks, 4 * blocks * N * columns, [&](int64_t b, MlpMemory<R>&) {
        R* panel = to.data() + b * columns * N;
        const int64_t rows = std::min(N, net.n - b * N);
        if (rows < N) std::fill_n(panel, columns * N, R(0));
        transpose(static_cast<const R*>(data) + b * N * stride, rows, columns, stride, panel, N);
      });
    };
    pack(net.x, net.features, net.stride, x);
    if (net.loss != MlpLoss::cross_entropy) pack(net.y, net.outputs(), net.outputs(), y);
    if (!slopes) return;
    team.each(panels_of<R>(net.features), 4 * net.n * net.features, [&](int64_t k, MlpMemory<R>&) {
      const int64_t columns = std::min(N, net.features - k * N);
      R* to = rows.data() + k * net.n * N;
      for (int64_t i = 0; i < net.n; ++i, to += N)
        std::fill(std::copy_n(static_cast<const R*>(net.x) + i * net.stride + k * N, columns, to),
                  to + N, R(0));
    });
  }
  size_t bytes() const { return (x.size() + y.size() + rows.size()) * sizeof(R); }
};

// The memory of a thread that calls: kept from one call to the next, but for what wide nets needed,
// which nobody may need again.
template <class R>
class Workplace {
 public:
  Workplace(const MlpData& net, int64_t tasks, int threads, int together = 1, bool slopes = false,
            int64_t kept = 0) {
    const int64_t most = std::max<int64_t>(1, mlp_work(net, net.n) * tasks / kMlpGrain);
    team.threads = int(std::clamp<int64_t>(threads, 1, most));
    try {
      fit(net, together, slopes, kept);
    } catch (...) {
      all() = All();
      throw;
    }
    data.fill(net, slopes, team);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  ~Workplace() {
    size_t bytes = data.bytes();
    for (const auto& memory : all().memories) bytes += memory.bytes();
    if (bytes > kKept) all() = All();
  }

 private:
  struct All {
    std::vector<MlpMemory<R>> memories;
    Panels<R> data;
  };
  static All& all() {
    thread_local All kept;
    return kept;
  }
  void fit(const MlpData& net, int together, bool slopes, int64_t kept) {
    auto& memories = all().memories;
    if (memories.size() < size_t(team.threads)) memories.resize(size_t(team.threads));
    for (int t = 0; t < team.threads; ++t) memories[size_t(t)].fit(net, together, slopes, kept);
    team.memory = memories.data();
    data.fit(net, slopes);
  }
  static constexpr size_t kKept = size_t(16) << 20;

 public:
  Team<R> team{};
  Panels<R>& data = all().data;
};

}  // namespace unstuck::cpu
