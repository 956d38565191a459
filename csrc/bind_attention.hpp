// Entry point of attention search: unstuck.ops.attention is the Python side.
#pragma once
#include "bind_candidates.hpp"
#include "bind_data.hpp"

namespace unstuck {

// A Backend has: Candidates, a backend of CandidatePlan; Scratch; workspace_size; and steps, as in
// cpu/attention.hpp, which takes the scratch memory of both and the candidates' place.
template <class Backend>
class AttentionPlan : public CandidatePlan<typename Backend::Candidates> {
  using Base = CandidatePlan<typename Backend::Candidates>;

 public:
  using Base::Base;

  int64_t workspace_size(const py::object& count, const py::object& antithetic,
                         const py::object& data) const {
    Arrays arrays(Backend::Candidates::kDeviceType);
    return Backend::workspace_size(read_objective(arrays, data, Bound::none), this->dim_,
                                   integer(count, {"count"}, 0, UINT32_MAX),
                                   flag(antithetic, {"antithetic"}));
  }

  // `data` is None for the plan's landscape, or see read_data(). region = (mean, sigma, scale, low,
  // high, bound), of which mean and scale are written.
  py::tuple steps(const py::object& data, const py::object& region, const py::object& path,
                  const py::object& beta, const py::object& share, const py::object& draw,
                  const py::object& wanted, const py::object& losses, const py::object& best_x,
                  const py::object& best, const py::object& where) {
    AttentionReport report;
    double sigma = 0, temperature = 0;
    Base::with_dtype(region, [&](auto zero, Arrays& arrays) {
      using R = decltype(zero);
      const py::tuple parts = fields(region, "region", 6);
      const auto written = [&](const py::object& o, const char* name) {
        return static_cast<R*>(arrays.write(o, {name}, {this->dim_}));
      };
      const int64_t count = Base::length(losses, "losses");
      AttentionState<R> state{written(py::object(parts[0]), "mean"), written(path, "path"),
                              written(py::object(parts[2]), "scale"),
                              non_negative(py::object(parts[1]), {"sigma"}),
                              non_negative(beta, {"beta"})};
      R* to_best = written(best_x, "best_x");
      R* to = static_cast<R*>(arrays.write(losses, {"losses"}, {count}));
      RegionView<R> view = read_limits<R>(parts, this->dim_, arrays);
      view.mean = state.mean;
      view.scale = state.scale;
      const ObjectiveView objective = this->read_objective(arrays, data, view.bound);
      report.best = real(best, {"best"});
      const double e = non_negative(share, {"share"});
      if (!(e > 0 && e < 1))
        throw py::value_error("share must lie strictly between 0 and 1, not " + shown(share));
      const int64_t n = integer(wanted, {"steps"}, 1, UINT32_MAX);
      this->template call<R>(arrays, draw, where, [&](const auto& drawn, auto place) {
        Backend::steps(objective, view, drawn, count, n, e, state, to, to_best, report,
                       this->scratch_, attention_, place);
      });
      sigma = state.sigma;
      temperature = state.beta;
    });
    return py::make_tuple(report.done, sigma, temperature, report.ess, report.finite, report.best,
                          report.improved);
  }

 private:
  ObjectiveView read_objective(Arrays& arrays, const py::object& data, Bound bound) const {
    if (data.is_none()) return this->objective();
    const ObjectiveView objective = read_data(arrays, data, this->dim_);
    if (std::holds_alternative<Regression>(objective) && bound != Bound::none)
      throw py::value_error("a bounded region must be sampled: low must be None");
    return objective;
  }

  // A number, infinity included.
  static double real(const py::object& o, Where where) {
    const double x = PyFloat_AsDouble(o.ptr());
    if (x == -1 && PyErr_Occurred()) {
      forget_error();
      throw py::type_error(where.str() + " must be a number, not " + shown(o));
    }
    return x;
  }

  typename Backend::Scratch attention_;
};

template <class Backend>
void bind_attention(py::module_& m) {
  using Plan = AttentionPlan<Backend>;
  py::class_<Plan, CandidatePlan<typename Backend::Candidates>>(
      m, "AttentionPlan", py::module_local(), "Adaptive attention search on one objective.")
      .def(py::init<const py::object&, const py::object&, const py::object&>(),
           py::arg("landscape"), py::arg("parameters"), py::arg("dim"))
      .def("workspace_size", &Plan::workspace_size, py::arg("count"), py::arg("antithetic"),
           py::arg("data") = py::none(),
           "float64 numbers that set_workspace() needs for steps with this many candidates.")
      .def("steps", &Plan::steps, py::arg("data"), py::arg("region"), py::arg("path"),
           py::arg("beta"), py::arg("share"), py::arg("draw"), py::arg("steps"), py::arg("losses"),
           py::arg("best_x"), py::arg("best"), py::arg("where"),
           "Iterations; returns how many, sigma, beta, effective sample size and finite losses of "
           "the last, the best loss, and whether it is new. `data` is None for the plan's "
           "landscape, ('regression', X, y, lam, kappa, logistic) or ('net', X, y, cross_entropy, "
           "hidden, outputs).");
}

}  // namespace unstuck
