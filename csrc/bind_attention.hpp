// Entry point of attention search: unstuck.ops.attention is the Python side.
#pragma once
#include "bind_candidates.hpp"
#include "cpu/attention.hpp"

namespace unstuck {

class AttentionPlan : public CandidatePlan<cpu::CandidateBackend> {
 public:
  using CandidatePlan::CandidatePlan;

  // region = (mean, sigma, scale, low, high, bound), of which mean and scale are written.
  py::tuple steps(const py::object& region, const py::object& path, const py::object& beta,
                  const py::object& share, const py::object& draw, const py::object& wanted,
                  const py::object& losses, const py::object& best_x, const py::object& best,
                  const py::object& where) {
    cpu::AttentionReport report;
    double sigma = 0, temperature = 0;
    with_dtype(region, [&](auto zero, Arrays& arrays) {
      using R = decltype(zero);
      const py::tuple parts = fields(region, "region", 6);
      const auto written = [&](const py::object& o, const char* name) {
        return static_cast<R*>(arrays.write(o, {name}, {dim_}));
      };
      const int64_t count = length(losses, "losses");
      cpu::AttentionState<R> state{written(py::object(parts[0]), "mean"), written(path, "path"),
                                   written(py::object(parts[2]), "scale"),
                                   non_negative(py::object(parts[1]), {"sigma"}),
                                   non_negative(beta, {"beta"})};
      R* to_best = written(best_x, "best_x");
      R* to = static_cast<R*>(arrays.write(losses, {"losses"}, {count}));
      RegionView<R> view = read_limits<R>(parts, dim_, arrays);
      view.mean = state.mean;
      view.scale = state.scale;
      report.best = real(best, {"best"});
      const double e = non_negative(share, {"share"});
      if (!(e > 0 && e < 1))
        throw py::value_error("share must lie strictly between 0 and 1, not " + shown(share));
      const int64_t n = integer(wanted, {"steps"}, 1, UINT32_MAX);
      call<R>(arrays, draw, where, [&](const auto& drawn, auto place) {
        cpu::attention_steps(objective(), view, drawn, count, n, e, state, to, to_best, report,
                             scratch_, attention_, place);
      });
      sigma = state.sigma;
      temperature = state.beta;
    });
    return py::make_tuple(report.done, sigma, temperature, report.ess, report.finite, report.best,
                          report.improved);
  }

 private:
  // A number, infinity included.
  static double real(const py::object& o, Where where) {
    const double x = PyFloat_AsDouble(o.ptr());
    if (x == -1 && PyErr_Occurred()) {
      forget_error();
      throw py::type_error(where.str() + " must be a number, not " + shown(o));
    }
    return x;
  }

  cpu::AttentionScratch attention_;
};

inline void bind_attention(py::module_& m) {
  py::class_<AttentionPlan, CandidatePlan<cpu::CandidateBackend>>(
      m, "AttentionPlan", py::module_local(), "Adaptive attention search on one objective.")
      .def(py::init<const py::object&, const py::object&, const py::object&>(),
           py::arg("landscape"), py::arg("parameters"), py::arg("dim"))
      .def("steps", &AttentionPlan::steps, py::arg("region"), py::arg("path"), py::arg("beta"),
           py::arg("share"), py::arg("draw"), py::arg("steps"), py::arg("losses"),
           py::arg("best_x"), py::arg("best"), py::arg("where"),
           "Iterations; returns how many, sigma, beta, effective sample size and finite losses of "
           "the last, the best loss, and whether it is new.");
}

}  // namespace unstuck
