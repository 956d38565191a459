// The module unstuck._C: kernels on the CPU.
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>

#include "bind_adam.hpp"
#include "bind_attention.hpp"
#include "bind_blend.hpp"
#include "bind_candidates.hpp"
#include "bind_landscapes.hpp"
#include "bind_learned.hpp"
#include "bind_lstm.hpp"
#include "bind_mlp.hpp"
#include "bind_mlp_descent.hpp"
#include "bind_objectives.hpp"
#include "bind_whitening.hpp"
#include "cpu/adam.hpp"
#include "cpu/attention.hpp"
#include "cpu/blend.hpp"
#include "cpu/candidates.hpp"
#include "cpu/learned.hpp"
#include "cpu/linear_candidates.hpp"
#include "cpu/lstm.hpp"
#include "cpu/mlp.hpp"
#include "cpu/net_candidates.hpp"
#include "cpu/objectives.hpp"
#include "cpu/trials.hpp"
#include "cpu/whitening.hpp"

namespace py = pybind11;

namespace unstuck {
namespace {

struct CpuBackend {
  static constexpr int32_t kDeviceType = dlpack::kCPU;
  static constexpr int kLandscapes = unstuck::kLandscapes;

  struct Workspace {
    std::vector<Chunk> chunks;
    std::vector<double> partials;
    explicit Workspace(const std::vector<BlendTensor>& tensors) {
      for (size_t i = 0; i < tensors.size(); ++i) cut(chunks, uint32_t(i), tensors[i].numel);
      partials.resize(chunks.size() * kBlendSums);
    }
    int64_t size() const { return 0; }
    void set(double*) {}
    int launches() const { return 1; }
  };
  static void run(const BlendStep& step, Workspace& w, uintptr_t threads) {
    cpu::blend_step(step, w.chunks, w.partials, sane(threads));
  }
  static void hypergradient(const BlendStep& step, Workspace& w, uintptr_t threads) {
    cpu::blend_hypergradient(step, w.chunks, w.partials, sane(threads));
  }
  struct AdamWorkspace {
    std::vector<Chunk> chunks;
    std::vector<double> partials;
    explicit AdamWorkspace(const std::vector<AdamTensor>& tensors) {
      for (size_t i = 0; i < tensors.size(); ++i) cut(chunks, uint32_t(i), tensors[i].numel);
      partials.resize(chunks.size());
    }
    int64_t size() const { return 0; }
    void set(double*) {}
    int launches() const { return 1; }
  };
  static void adam(const AdamStep& step, AdamWorkspace& w, uintptr_t threads) {
    cpu::adam_step(step, w.chunks, w.partials, sane(threads));
  }
  using LearnedWorkspace = cpu::LearnedWork;
  static void learned(const LearnedStep& step, LearnedWorkspace& w, uintptr_t threads) {
    cpu::learned_step(step, w, sane(threads));
  }
  static void whiten(const std::vector<cpu::WhitenedMatrix>& matrices, uintptr_t threads) {
    cpu::whiten(matrices, sane(threads));
  }
  using LstmWorkspace = cpu::LstmWork;
  static void lstm(const LstmStep& step, LstmWorkspace& w, uintptr_t threads) {
    cpu::lstm_step(step, w, sane(threads));
  }
  static void regression_trials(const Regression& o, const Trials& t, uintptr_t threads) {
    cpu::regression_trials(o, t, sane(threads));
  }
  static void net_trials(const NetTrials& net, const Trials& t, int64_t dim, uintptr_t threads) {
    cpu::net_trials(net, t, dim, sane(threads));
  }
  static void landscape_trials(const LandscapeView& o, const Trials& t, int64_t dim, DType dtype,
                               uintptr_t threads) {
    cpu::landscape_trials(o, t, dim, dtype, sane(threads));
  }
  static void regression_gradient(const Regression& o, const void* w, void* loss, void* gradient,
                                  const Lent&, uintptr_t threads) {
    cpu::regression_gradient(o, w, loss, gradient, sane(threads));
  }
  template <class R>
  static void linear_candidates(const Regression& o, const RegionView<R>& region,
                                const DrawView& draw, int64_t count, R* losses, const Lent&,
                                uintptr_t threads) {
    cpu::linear_candidates(o, region, draw, count, losses, sane(threads));
  }
  template <class R>
  static void net_candidates(const NetData& net, const RegionView<R>& region, const DrawView& draw,
                             int64_t count, R* losses, const Lent&, uintptr_t threads) {
    cpu::net_candidates(net, region, draw, count, losses, sane(threads));
  }
  template <class R>
  static void mlp_points(const MlpData& net, const R* points, int64_t count, R* losses,
                         R* gradients, const Lent&, uintptr_t threads) {
    cpu::mlp_points(net, points, count, losses, gradients, sane(threads));
  }
  template <class R>
  static void mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                             int64_t count, R* losses, const Lent&, uintptr_t threads) {
    cpu::mlp_candidates(net, region, draw, count, losses, sane(threads));
  }
  template <class R>
  static void mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count,
                       R* losses, const Lent&, uintptr_t threads) {
    cpu::mlp_line(net, w, d, rates, count, losses, sane(threads));
  }
  // Four threads a core are more than enough; OpenMP ends the process when it cannot start one.
  static int sane(uintptr_t threads) {
#ifdef _OPENMP
    return int(std::min(threads, uintptr_t(4 * omp_get_num_procs())));
#else
    return int(std::min(threads, uintptr_t(1)));
#endif
  }
};

}  // namespace
}  // namespace unstuck

PYBIND11_MODULE(_C, m) {
  m.doc() = "unstuck's kernels on the CPU.";
  m.attr("__version__") = UNSTUCK_VERSION;
  m.def(
      "init",
      [](const py::object& torch, bool dlpack, bool handles) {
        return unstuck::reader().init(torch, dlpack, handles);
      },
      py::arg("torch"), py::arg("dlpack") = true, py::arg("handles") = true,
      "Bind to the imported torch; True when tensors are read through the DLPack exchange API.");
  m.def("instruction_set", &unstuck::cpu::instruction_set, "The clone that the loader chose.");
  unstuck::bind_adam<unstuck::CpuBackend>(m);
  unstuck::bind_blend<unstuck::CpuBackend>(m);
  unstuck::bind_candidates<unstuck::cpu::CandidateBackend>(m);
  unstuck::bind_landscape_gradients<unstuck::cpu::CandidateBackend>(m);
  unstuck::bind_objectives<unstuck::CpuBackend>(m);
  unstuck::bind_learned<unstuck::CpuBackend>(m);
  unstuck::bind_lstm<unstuck::CpuBackend>(m);
  unstuck::bind_whitening<unstuck::CpuBackend>(m);
  unstuck::bind_mlp<unstuck::CpuBackend>(m);
  unstuck::bind_mlp_descent<unstuck::CpuBackend>(m);
  unstuck::bind_attention<unstuck::cpu::AttentionBackend>(m);
}
