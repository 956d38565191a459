// The entry points of the objectives with data, and their argument checks.
#pragma once
#include <pybind11/pybind11.h>

#include "bind_arrays.hpp"
#include "bind_candidates.hpp"
#include "objective_terms.hpp"

namespace unstuck {

// A Backend has kDeviceType, kLandscapes, regression_trials, net_trials, landscape_trials,
// regression_gradient, net_candidates and linear_candidates; `where` is the number of threads on
// the CPU, the stream on CUDA. bind_trials() wants the first five alone. A workspace is None on the
// CPU, and float64 memory of the device on CUDA.
template <class Backend>
struct ObjectiveCalls {
  static Regression regression(Arrays& arrays, const py::object& x, const py::object& y, double lam,
                               double kappa, bool logistic) {
    const auto m = arrays.matrix(x, "X");
    return {m.data,        arrays.read(y, "y", m.rows),
            m.rows,        m.columns,
            m.stride,      lam,
            kappa,         logistic,
            arrays.dtype()};
  }

  static Trials trials(Arrays& arrays, int64_t dim, const py::object& w, const py::object& d,
                       const py::object& rates, double beta, const py::object& losses,
                       const py::object& p, const py::object& moved, const py::object& rate,
                       const py::object& workspace) {
    Trials t{};
    if (!workspace.is_none()) {
      Arrays space(Backend::kDeviceType);
      t.workspace_size = space.length(workspace, "workspace");
      t.workspace = static_cast<double*>(space.write(workspace, "workspace", t.workspace_size));
      if (space.dtype() != DType::f64) throw py::type_error("workspace must be float64");
    }
    t.count = arrays.length(rates, "rates");
    t.beta = non_negative(py::float_(beta), {"beta"});
    t.w = arrays.read(w, "w", dim);
    t.d = arrays.read(d, "d", dim);
    t.rates = arrays.read(rates, "rates", t.count);
    t.losses = arrays.write(losses, "losses", t.count);
    if (moved.is_none()) return t;
    t.p = arrays.write(p, "p", t.count);
    t.moved = arrays.write(moved, "moved", dim);
    t.rate = arrays.write(rate, "rate", 1);
    return t;
  }

  static void regression_trials(const py::object& x, const py::object& y, double lam, double kappa,
                                bool logistic, const py::object& w, const py::object& d,
                                const py::object& rates, double beta, const py::object& losses,
                                const py::object& p, const py::object& moved,
                                const py::object& rate, const py::object& workspace,
                                uintptr_t where) {
    Arrays arrays(Backend::kDeviceType);
    const Regression objective = regression(arrays, x, y, lam, kappa, logistic);
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
    net.n = arrays.length(y, "y");
    net.hidden = hidden;
    net.outputs = outputs;
    net.cross_entropy = cross_entropy;
    net.first = arrays.read(first, "first", 2 * hidden * net.n);
    net.dtype = arrays.dtype();
    const int64_t bytes = size_of(net.dtype);
    net.slope = static_cast<const char*>(net.first) + hidden * net.n * bytes;
    net.y = cross_entropy ? arrays.read_int64(y, "y", net.n) : arrays.read(y, "y", net.n);
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
    const int64_t dim = arrays.length(w, "w");
    if (dim < 1) throw py::value_error("w must have at least one coordinate");
    const Trials t = trials(arrays, dim, w, d, rates, beta, losses, p, moved, rate, workspace);
    arrays.check_memory();
    py::gil_scoped_release release;
    Backend::landscape_trials(objective, t, dim, arrays.dtype(), where);
  }

  // `region` is (mean, sigma, scale, low, high, bound), `draw` is (seed, iteration, stream,
  // antithetic, rounds), as for a CandidatePlan.
  static void net_candidates(const py::object& x, const py::object& y, bool cross_entropy,
                             int64_t hidden, int64_t outputs, const py::object& region,
                             const py::object& draw, const py::object& losses, uintptr_t where) {
    Arrays arrays(Backend::kDeviceType);
    check_size(hidden, "hidden");
    check_size(outputs, "outputs");
    const auto m = arrays.matrix(x, "X");
    const void* labels =
        cross_entropy ? arrays.read_int64(y, "y", m.rows) : arrays.read(y, "y", m.rows);
    const NetData net{m.data, labels, m.rows, m.columns, m.stride, hidden, outputs, cross_entropy};
    candidates(arrays, net.dim(), region, draw, losses, [&](auto view, auto drawn, auto... to) {
      Backend::net_candidates(net, view, drawn, to..., where);
    });
  }

  static void linear_candidates(const py::object& x, const py::object& y, double lam, double kappa,
                                bool logistic, const py::object& region, const py::object& draw,
                                const py::object& losses, uintptr_t where) {
    Arrays arrays(Backend::kDeviceType);
    const Regression objective = regression(arrays, x, y, lam, kappa, logistic);
    candidates(arrays, objective.dim, region, draw, losses, [&](auto view, auto drawn, auto... to) {
      if (view.bound != Bound::none)
        throw py::value_error("a bounded region must be sampled: low must be None");
      Backend::linear_candidates(objective, view, drawn, to..., where);
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
    const int64_t count = arrays.length(losses, "losses");
    if (count > int64_t(UINT32_MAX)) throw py::value_error("losses has more than 2^32 - 1 entries");
    R* out = static_cast<R*>(arrays.write(losses, "losses", count));
    const py::tuple parts = fields(region, "region", 6), noise = fields(draw, "draw", 5);
    const auto item = [](const py::tuple& t, size_t i) { return py::object(t[i]); };
    const auto optional = [&](size_t i, const char* name) -> const R* {
      if (item(parts, i).is_none()) return nullptr;
      return static_cast<const R*>(arrays.read(item(parts, i), name, dim));
    };
    RegionView<R> view{};
    view.dim = dim;
    view.mean = static_cast<const R*>(arrays.read(item(parts, 0), "mean", dim));
    if (reader().is_tensor(item(parts, 1).ptr()))
      view.sigmas = static_cast<const R*>(arrays.read(item(parts, 1), "sigma", count));
    else
      view.sigma = R(number(item(parts, 1), {"sigma"}));
    view.scale = optional(2, "scale");
    view.low = optional(3, "low");
    view.high = optional(4, "high");
    if ((view.low == nullptr) != (view.high == nullptr))
      throw py::value_error("low and high must both be given, or neither");
    const auto bound = shown(item(parts, 5));
    if (bound != "'clip'" && bound != "'reflect'")
      throw py::value_error("bound must be 'clip' or 'reflect', not " + bound);
    view.bound = !view.low ? Bound::none : bound == "'clip'" ? Bound::clip : Bound::reflect;
    const DrawView drawn{noise_key(item(noise, 0), item(noise, 1), item(noise, 2), item(noise, 4)),
                         flag(item(noise, 3), {"antithetic"})};
    arrays.check_memory();
    py::gil_scoped_release release;
    body(view, drawn, count, out);
  }

  static void check_size(int64_t size, const char* name) {
    if (size < 1 || size > INT32_MAX)
      throw py::value_error(std::string(name) + " must be from 1 to 2147483647, not " +
                            std::to_string(size));
  }

  static void regression_gradient(const py::object& x, const py::object& y, double lam,
                                  double kappa, bool logistic, const py::object& w,
                                  const py::object& loss, const py::object& gradient,
                                  uintptr_t where) {
    Arrays arrays(Backend::kDeviceType);
    const Regression objective = regression(arrays, x, y, lam, kappa, logistic);
    const void* point = arrays.read(w, "w", objective.dim);
    void* value = arrays.write(loss, "loss", 1);
    void* slope = arrays.write(gradient, "gradient", objective.dim);
    arrays.check_memory();
    py::gil_scoped_release release;
    Backend::regression_gradient(objective, point, value, slope, where);
  }
};

template <class Backend>
void bind_trials(py::module_& m) {
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
}

template <class Backend>
void bind_objectives(py::module_& m) {
  using Calls = ObjectiveCalls<Backend>;
  bind_trials<Backend>(m);
  m.def("linear_candidates", &Calls::linear_candidates, py::arg("X"), py::arg("y"), py::arg("lam"),
        py::arg("kappa"), py::arg("logistic"), py::arg("region"), py::arg("draw"),
        py::arg("losses"), py::arg("where"),
        "Losses of candidates of a regression, in a region without bounds.");
  m.def("net_candidates", &Calls::net_candidates, py::arg("X"), py::arg("y"),
        py::arg("cross_entropy"), py::arg("hidden"), py::arg("outputs"), py::arg("region"),
        py::arg("draw"), py::arg("losses"), py::arg("where"),
        "Losses of candidates of a two-layer net.");
  m.def("regression_gradient", &Calls::regression_gradient, py::arg("X"), py::arg("y"),
        py::arg("lam"), py::arg("kappa"), py::arg("logistic"), py::arg("w"), py::arg("loss"),
        py::arg("gradient"), py::arg("where"), "A regression's loss and gradient, in one pass.");
}

}  // namespace unstuck
