// The entry points of the objectives with data, and their argument checks.
#pragma once
#include <pybind11/pybind11.h>

#include "bind_data.hpp"

namespace unstuck {

// A Backend has kDeviceType, kLandscapes, regression_trials, net_trials, landscape_trials,
// regression_gradient, net_candidates and linear_candidates; `where` is the number of threads on
// the CPU, the stream on CUDA. A workspace is None on the CPU, and float64 memory of the device on
// CUDA.
template <class Backend>
struct ObjectiveCalls {
  static Trials trials(Arrays& arrays, int64_t dim, const py::object& w, const py::object& d,
                       const py::object& rates, double beta, const py::object& losses,
                       const py::object& p, const py::object& moved, const py::object& rate,
                       const py::object& workspace) {
    Trials t{};
    const Lent lent = arrays.workspace(workspace);
    t.workspace = lent.memory;
    t.workspace_size = lent.size;
    t.count = length(rates, "rates");
    t.beta = non_negative(py::float_(beta), {"beta"});
    t.w = arrays.read_numbers(w, {"w"}, dim);
    t.d = arrays.read_numbers(d, {"d"}, dim);
    t.rates = arrays.read_numbers(rates, {"rates"}, t.count);
    t.losses = arrays.write_numbers(losses, {"losses"}, t.count);
    if (moved.is_none()) return t;
    t.p = arrays.write_numbers(p, {"p"}, t.count);
    t.moved = arrays.write_numbers(moved, {"moved"}, dim);
    t.rate = arrays.write_numbers(rate, {"rate"}, 1);
    return t;
  }

  static void regression_trials(const py::object& x, const py::object& y, double lam, double kappa,
                                bool logistic, const py::object& w, const py::object& d,
                                const py::object& rates, double beta, const py::object& losses,
                                const py::object& p, const py::object& moved,
                                const py::object& rate, const py::object& workspace,
                                uintptr_t where) {
    Arrays arrays(Backend::kDeviceType);
    const Regression objective = read_regression(arrays, x, y, lam, kappa, logistic);
    const Trials t =
        trials(arrays, objective.dim, w, d, rates, beta, losses, p, moved, rate, workspace);
    arrays.check_memory();
    py::gil_scoped_release release;
    Backend::regression_trials(objective, t, where);
  }

  static void net_trials(const py::object& first, const py::object& y, bool cross_entropy,
                         int64_t features, int64_t hidden, int64_t outputs, const py::object& w,
                         const py::object& d, const py::object& rates, double beta,
                         const py::object& losses, const py::object& p, const py::object& moved,
                         const py::object& rate, const py::object& workspace, uintptr_t where) {
    Arrays arrays(Backend::kDeviceType);
    check_size(features, "features");
    check_size(hidden, "hidden");
    check_size(outputs, "outputs");
    const int64_t tail = hidden * (features + 1), dim = tail + outputs * (hidden + 1);
    NetTrials net{};
    net.n = length(y, "y");
    net.hidden = hidden;
    net.outputs = outputs;
    net.cross_entropy = cross_entropy;
    net.first = arrays.read_numbers(first, {"first"}, 2 * hidden * net.n);
    net.dtype = arrays.dtype();
    const int64_t bytes = size_of(net.dtype);
    net.slope = static_cast<const char*>(net.first) + hidden * net.n * bytes;
    net.y =
        cross_entropy ? arrays.read_int64(y, {"y"}, net.n) : arrays.read_numbers(y, {"y"}, net.n);
    const Trials t = trials(arrays, dim, w, d, rates, beta, losses, p, moved, rate, workspace);
    net.second = static_cast<const char*>(t.w) + tail * bytes;
    net.change = static_cast<const char*>(t.d) + tail * bytes;
    arrays.check_memory();
    py::gil_scoped_release release;
    Backend::net_trials(net, t, dim, where);
  }

  // A landscape by its number, as a CandidatePlan knows it.
  static void landscape_trials(const py::object& landscape, const py::object& parameters,
                               const py::object& w, const py::object& d, const py::object& rates,
                               double beta, const py::object& losses, const py::object& p,
                               const py::object& moved, const py::object& rate,
                               const py::object& workspace, uintptr_t where) {
    Arrays arrays(Backend::kDeviceType);
    const LandscapeView objective = read_landscape(landscape, parameters, Backend::kLandscapes);
    if (objective.landscape < 0) throw py::value_error("landscape must be at least 0, not -1");
    const int64_t dim = length(w, "w");
    if (dim < 1) throw py::value_error("w must have at least one coordinate");
    const Trials t = trials(arrays, dim, w, d, rates, beta, losses, p, moved, rate, workspace);
    arrays.check_memory();
    py::gil_scoped_release release;
    Backend::landscape_trials(objective, t, dim, arrays.dtype(), where);
  }

  static void net_candidates(const py::object& x, const py::object& y, bool cross_entropy,
                             int64_t hidden, int64_t outputs, const py::object& region,
                             const py::object& draw, const py::object& losses, uintptr_t where,
                             const py::object& workspace) {
    Arrays arrays(Backend::kDeviceType);
    const NetData net = read_net(arrays, x, y, cross_entropy, hidden, outputs);
    const Lent lent = arrays.workspace(workspace);
    candidates(arrays, net.dim(), region, draw, losses, [&](auto view, auto drawn, auto... to) {
      Backend::net_candidates(net, view, drawn, to..., lent, where);
    });
  }

  static void linear_candidates(const py::object& x, const py::object& y, double lam, double kappa,
                                bool logistic, const py::object& region, const py::object& draw,
                                const py::object& losses, uintptr_t where,
                                const py::object& workspace) {
    Arrays arrays(Backend::kDeviceType);
    const Regression objective = read_regression(arrays, x, y, lam, kappa, logistic);
    const Lent lent = arrays.workspace(workspace);
    candidates(arrays, objective.dim, region, draw, losses, [&](auto view, auto drawn, auto... to) {
      if (view.bound != Bound::none)
        throw py::value_error("a bounded region must be sampled: low must be None");
      Backend::linear_candidates(objective, view, drawn, to..., lent, where);
    });
  }

  // Reads the rest and calls body(region, draw, count, losses) in the arrays' dtype.
  template <class Body>
  static void candidates(Arrays& arrays, int64_t dim, const py::object& region,
                         const py::object& draw, const py::object& losses, const Body& body) {
    if (arrays.dtype() == DType::f32)
      candidates_of<float>(arrays, dim, region, draw, losses, body);
    else
      candidates_of<double>(arrays, dim, region, draw, losses, body);
  }
  template <class R, class Body>
  static void candidates_of(Arrays& arrays, int64_t dim, const py::object& region,
                            const py::object& draw, const py::object& losses, const Body& body) {
    const int64_t count = length(losses, "losses");
    if (count > int64_t(UINT32_MAX)) throw py::value_error("losses has more than 2^32 - 1 entries");
    R* out = static_cast<R*>(arrays.write_numbers(losses, {"losses"}, count));
    const RegionView<R> view = read_region<R>(region, dim, count, arrays);
    const DrawView drawn = read_draw(draw);
    arrays.check_memory();
    py::gil_scoped_release release;
    body(view, drawn, count, out);
  }

  // Elements of a vector, from its shape.
  static int64_t length(const py::object& o, const char* name) {
    return reader().read(o.ptr(), {name}).numel;
  }
  static void regression_gradient(const py::object& x, const py::object& y, double lam,
                                  double kappa, bool logistic, const py::object& w,
                                  const py::object& loss, const py::object& gradient,
                                  uintptr_t where, const py::object& workspace) {
    Arrays arrays(Backend::kDeviceType);
    const Regression objective = read_regression(arrays, x, y, lam, kappa, logistic);
    const Lent lent = arrays.workspace(workspace);
    const void* point = arrays.read_numbers(w, {"w"}, objective.dim);
    void* value = arrays.write_numbers(loss, {"loss"}, 1);
    void* slope = arrays.write_numbers(gradient, {"gradient"}, objective.dim);
    arrays.check_memory();
    py::gil_scoped_release release;
    Backend::regression_gradient(objective, point, value, slope, lent, where);
  }
};

template <class Backend>
void bind_objectives(py::module_& m) {
  using Calls = ObjectiveCalls<Backend>;
  m.def(
      "regression_trials", &Calls::regression_trials, py::arg("X"), py::arg("y"), py::arg("lam"),
      py::arg("kappa"), py::arg("logistic"), py::arg("w"), py::arg("d"), py::arg("rates"),
      py::arg("beta"), py::arg("losses"), py::arg("p"), py::arg("moved"), py::arg("rate"),
      py::arg("workspace"), py::arg("where"),
      "Losses of a regression at w - rates d and, unless moved is None, the step they decide on.");
  m.def("net_trials", &Calls::net_trials, py::arg("first"), py::arg("y"), py::arg("cross_entropy"),
        py::arg("features"), py::arg("hidden"), py::arg("outputs"), py::arg("w"), py::arg("d"),
        py::arg("rates"), py::arg("beta"), py::arg("losses"), py::arg("p"), py::arg("moved"),
        py::arg("rate"), py::arg("workspace"), py::arg("where"),
        "The same of a two-layer net, from its first layer's outputs at w and along d.");
  m.def("landscape_trials", &Calls::landscape_trials, py::arg("landscape"), py::arg("parameters"),
        py::arg("w"), py::arg("d"), py::arg("rates"), py::arg("beta"), py::arg("losses"),
        py::arg("p"), py::arg("moved"), py::arg("rate"), py::arg("workspace"), py::arg("where"),
        "The same of a landscape.");
  m.def("linear_candidates", &Calls::linear_candidates, py::arg("X"), py::arg("y"), py::arg("lam"),
        py::arg("kappa"), py::arg("logistic"), py::arg("region"), py::arg("draw"),
        py::arg("losses"), py::arg("where"), py::arg("workspace") = py::none(),
        "Losses of candidates of a regression, in a region without bounds.");
  m.def("net_candidates", &Calls::net_candidates, py::arg("X"), py::arg("y"),
        py::arg("cross_entropy"), py::arg("hidden"), py::arg("outputs"), py::arg("region"),
        py::arg("draw"), py::arg("losses"), py::arg("where"), py::arg("workspace") = py::none(),
        "Losses of candidates of a two-layer net.");
  m.def("regression_gradient", &Calls::regression_gradient, py::arg("X"), py::arg("y"),
        py::arg("lam"), py::arg("kappa"), py::arg("logistic"), py::arg("w"), py::arg("loss"),
        py::arg("gradient"), py::arg("where"), py::arg("workspace") = py::none(),
        "A regression's loss and gradient, in one pass.");
}

}  // namespace unstuck
