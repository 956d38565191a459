// The module unstuck._cuda: kernels on NVIDIA GPUs. Compiled with UNSTUCK_EMULATED it is the test
// suite's module, whose kernels run on the CPU.
#include "bind_adam.hpp"
#include "bind_attention.hpp"
#include "bind_blend.hpp"
#include "bind_candidates.hpp"
#include "bind_landscapes.hpp"
#include "bind_learned.hpp"
#include "bind_lstm.hpp"
#include "bind_mlp.hpp"
#include "bind_objectives.hpp"
#include "cuda/adam.hpp"
#include "cuda/attention_backend.hpp"
#include "cuda/backend.hpp"
#include "cuda/blend.hpp"
#include "cuda/candidate_backend.hpp"
#include "cuda/learned.hpp"
#include "cuda/lstm.hpp"
#include "cuda/mlp.hpp"
#include "cuda/objectives.hpp"
#include "cuda/trials.hpp"

namespace py = pybind11;

namespace unstuck {
namespace {

// The launches of a plan, with the memory that they are lent.
template <class Launches>
struct Lendable : Launches {
  using Launches::Launches;
  int64_t size() const { return this->workspace_size(); }
  void set(double* memory) { this->workspace = memory; }
  int launches() const { return int(this->list.size()); }
};

struct CudaBackend {
  static constexpr int32_t kDeviceType = cuda::kDeviceType;
  static constexpr int kLandscapes = unstuck::kLandscapes;
  using Workspace = Lendable<cuda::Launches>;
  static void run(const BlendStep& step, const Workspace& w, uintptr_t stream) {
    cuda::check(cuda::blend_step(step, w, reinterpret_cast<void*>(stream)));
  }
  static void hypergradient(const BlendStep& step, const Workspace& w, uintptr_t stream) {
    cuda::check(cuda::blend_hypergradient(step, w, reinterpret_cast<void*>(stream)));
  }
  using AdamWorkspace = Lendable<cuda::AdamLaunches>;
  static void adam(const AdamStep& step, const AdamWorkspace& w, uintptr_t stream) {
    cuda::check(cuda::adam_step(step, w, reinterpret_cast<void*>(stream)));
  }

  using LearnedWorkspace = Lendable<cuda::LearnedLaunches>;
  static void learned(const LearnedStep& step, const LearnedWorkspace& w, uintptr_t stream) {
    cuda::check(cuda::learned_step(step, w, reinterpret_cast<void*>(stream)));
  }
  using LstmWorkspace = Lendable<cuda::LstmLaunches>;
  static void lstm(const LstmStep& step, const LstmWorkspace& w, uintptr_t stream) {
    cuda::check(cuda::lstm_step(step, w, reinterpret_cast<void*>(stream)));
  }

  static void regression_trials(const Regression& o, const Trials& t, uintptr_t stream) {
    room(t, cuda::regression_trials_workspace(o.n, o.dim, t.count));
    cuda::check(cuda::regression_trials(o, t, reinterpret_cast<void*>(stream)));
  }
  static void net_trials(const NetTrials& net, const Trials& t, int64_t dim, uintptr_t stream) {
    room(t, cuda::net_trials_workspace(net.n, t.count));
    cuda::check(cuda::net_trials(net, t, dim, reinterpret_cast<void*>(stream)));
  }
  static void landscape_trials(const LandscapeView& o, const Trials& t, int64_t dim, DType dtype,
                               uintptr_t stream) {
    room(t, cuda::landscape_trials_workspace(dim, t.count));
    cuda::check(cuda::landscape_trials(o, t, dim, dtype, reinterpret_cast<void*>(stream)));
  }
  static void regression_gradient(const Regression& o, const void* w, void* loss, void* gradient,
                                  const Lent& lent, uintptr_t stream) {
    double* memory = room(lent, cuda::regression_gradient_workspace(o.n, o.dim));
    cuda::check(
        cuda::regression_gradient(o, w, loss, gradient, memory, reinterpret_cast<void*>(stream)));
  }
  template <class R>
  static void linear_candidates(const Regression& o, const RegionView<R>& region,
                                const DrawView& draw, int64_t count, R* losses, const Lent& lent,
                                uintptr_t stream) {
    double* memory = room(lent, cuda::linear_candidates_workspace(o.n, count, draw.antithetic));
    cuda::check(cuda::linear_candidates(o, region, draw, count, losses, memory,
                                        reinterpret_cast<void*>(stream)));
  }
  template <class R>
  static void net_candidates(const NetData& net, const RegionView<R>& region, const DrawView& draw,
                             int64_t count, R* losses, const Lent& lent, uintptr_t stream) {
    double* memory = room(lent, cuda::net_candidates_workspace(net.n, count));
    cuda::check(cuda::net_candidates(net, region, draw, count, losses, memory,
                                     reinterpret_cast<void*>(stream)));
  }
  template <class R>
  static void mlp_points(const MlpData& net, const R* points, int64_t count, R* losses,
                         R* gradients, const Lent& lent, uintptr_t stream) {
    const auto kind = gradients ? cuda::MlpKind::gradients : cuda::MlpKind::points;
    double* memory = room(lent, cuda::mlp_workspace(net, sizeof(R), kind, count));
    cuda::check(cuda::mlp_points(net, points, count, losses, gradients, memory,
                                 reinterpret_cast<void*>(stream)));
  }
  template <class R>
  static void mlp_candidates(const MlpData& net, const RegionView<R>& region, const DrawView& draw,
                             int64_t count, R* losses, const Lent& lent, uintptr_t stream) {
    double* memory =
        room(lent, cuda::mlp_workspace(net, sizeof(R), cuda::MlpKind::candidates, count));
    cuda::check(cuda::mlp_candidates(net, region, draw, count, losses, memory,
                                     reinterpret_cast<void*>(stream)));
  }
  template <class R>
  static void mlp_line(const MlpData& net, const R* w, const R* d, const R* rates, int64_t count,
                       R* losses, const Lent& lent, uintptr_t stream) {
    double* memory = room(lent, cuda::mlp_workspace(net, sizeof(R), cuda::MlpKind::line, count));
    cuda::check(
        cuda::mlp_line(net, w, d, rates, count, losses, memory, reinterpret_cast<void*>(stream)));
  }
  static int64_t mlp_workspace(const py::object& net, const std::string& kind,
                               const py::object& count) {
    constexpr const char* kinds[] = {"points", "gradients", "candidates", "line"};
    int which = 0;
    while (which < cuda::kMlpKinds && kind != kinds[which]) ++which;
    if (which == cuda::kMlpKinds)
      throw py::value_error("kind must be points, gradients, candidates or line, not " + kind);
    Arrays arrays(kDeviceType);
    const MlpData data = read_mlp(arrays, net);
    return cuda::mlp_workspace(data, size_of(arrays.dtype()), cuda::MlpKind(which),
                               integer(count, {"count"}, 0, UINT32_MAX));
  }
  static double* room(const Lent& lent, int64_t numbers) {
    return cuda::Workspace{lent.memory, lent.size}.room(numbers);
  }
  static void room(const Trials& t, int64_t numbers) {
    room(Lent{t.workspace, t.workspace_size}, numbers);
  }
};

}  // namespace
}  // namespace unstuck

#if defined(UNSTUCK_EMULATED)
PYBIND11_MODULE(_cuda_emulated, m) {
#else
PYBIND11_MODULE(_cuda, m) {
#endif
  m.doc() = "unstuck's kernels on NVIDIA GPUs.";
  m.attr("__version__") = UNSTUCK_VERSION;
  m.def(
      "init",
      [](const py::object& torch, bool dlpack, bool handles) {
        return unstuck::reader().init(torch, dlpack, handles);
      },
      py::arg("torch"), py::arg("dlpack") = true, py::arg("handles") = true,
      "Bind to the imported torch; True when tensors are read through the DLPack exchange API.");
  m.def(
      "device_status",
      [] {
        int count = 0;
        const int error = unstuck::cuda::device_count(&count);
        return py::make_tuple(error, error ? unstuck::cuda::error_text(error) : "", count);
      },
      "What the driver says: error code (0: none), its text, and the number of devices.");
  unstuck::bind_adam<unstuck::CudaBackend>(m);
  unstuck::bind_blend<unstuck::CudaBackend>(m);
  unstuck::bind_candidates<unstuck::cuda::CandidateBackend>(m);
  unstuck::bind_attention<unstuck::cuda::AttentionBackend>(m);
  unstuck::bind_landscape_gradients<unstuck::cuda::CandidateBackend>(m);
  m.def("landscape_gradients_workspace", &unstuck::cuda::landscape_gradients_workspace,
        py::arg("dim"), py::arg("count"), "float64 numbers that landscape_gradients() needs.");
  unstuck::bind_objectives<unstuck::CudaBackend>(m);
  unstuck::bind_learned<unstuck::CudaBackend>(m);
  unstuck::bind_lstm<unstuck::CudaBackend>(m);
  m.def("learned_students_workspace", &unstuck::learned_students_workspace<unstuck::CudaBackend>,
        py::arg("sizes"), py::arg("students"), "float64 numbers that learned_students() needs.");
  unstuck::bind_mlp<unstuck::CudaBackend>(m);
  m.def("mlp_workspace", &unstuck::CudaBackend::mlp_workspace, py::arg("net"), py::arg("kind"),
        py::arg("count"),
        "float64 numbers that mlp_points() without (\"points\") or with \"gradients\", "
        "mlp_candidates() and mlp_line() need.");
  m.def("regression_trials_workspace", &unstuck::cuda::regression_trials_workspace, py::arg("n"),
        py::arg("dim"), py::arg("count"), "float64 numbers that regression_trials() needs.");
  m.def("net_trials_workspace", &unstuck::cuda::net_trials_workspace, py::arg("n"),
        py::arg("count"), "float64 numbers that net_trials() needs.");
  m.def("landscape_trials_workspace", &unstuck::cuda::landscape_trials_workspace, py::arg("dim"),
        py::arg("count"), "float64 numbers that landscape_trials() needs.");
  m.def("regression_gradient_workspace", &unstuck::cuda::regression_gradient_workspace,
        py::arg("n"), py::arg("dim"), "float64 numbers that regression_gradient() needs.");
  m.def("linear_candidates_workspace", &unstuck::cuda::linear_candidates_workspace, py::arg("n"),
        py::arg("count"), py::arg("antithetic"), "float64 numbers that linear_candidates() needs.");
  m.def("net_candidates_workspace", &unstuck::cuda::net_candidates_workspace, py::arg("n"),
        py::arg("count"), "float64 numbers that net_candidates() needs.");
}
