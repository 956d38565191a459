// Entry points and argument checks of candidates: unstuck.ops.candidates is the Python side.
#pragma once
#include <pybind11/pybind11.h>

#include "bind_region.hpp"
#include "core/busy.hpp"

namespace unstuck {

// A Backend has: kDeviceType, kLandscapes, Scratch; place(), which makes of `where` (the number of
// threads on the CPU, the stream on CUDA) what its functions take; losses, moments, softmax, sample
// and values, as in cpu/candidates.hpp; workspace_size(), and set_workspace(scratch, memory, size).
template <class Backend>
class CandidatePlan {
 public:
  CandidatePlan(const py::object& landscape, const py::object& parameters, const py::object& dim) {
    objective_ = read_landscape(landscape, parameters, Backend::kLandscapes);
    dim_ = integer(dim, {"dim"}, objective_.landscape < 0 ? 0 : 1, int64_t(1) << 34);
  }

  void losses(const py::object& region, const py::object& draw, const py::object& out,
              const py::object& where) {
    with_dtype(region, [&](auto zero, Arrays& arrays) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const auto view = read_region<R>(region, dim_, count, arrays);
      R* to = static_cast<R*>(arrays.write(out, {"out"}, {count}));
      call<R>(arrays, draw, where, [&](const auto& drawn, auto place) {
        Backend::losses(objective(), view, drawn, count, to, scratch_, place);
      });
    });
  }

  void combine(const py::object& region, const py::object& draw, const py::object& weights,
               const py::object& shift, const py::object& square, const py::object& where) {
    with_dtype(region, [&](auto zero, Arrays& arrays) {
      using R = decltype(zero);
      const int64_t count = length(weights, "weights");
      const auto view = read_region<R>(region, dim_, count, arrays);
      const R* a = static_cast<const R*>(arrays.read(weights, {"weights"}, {count}));
      R* to = static_cast<R*>(arrays.write(shift, {"shift"}, {dim_}));
      R* to_square = static_cast<R*>(arrays.write(square, {"square"}, {dim_}));
      call<R>(arrays, draw, where, [&](const auto& drawn, auto place) {
        Backend::moments(view, drawn, a, count, to, to_square, scratch_, place);
      });
    });
  }

  double softmax(const py::object& region, const py::object& draw, const py::object& beta,
                 const py::object& out, const py::object& shift, const py::object& square,
                 const py::object& where) {
    double size = 0;
    with_dtype(region, [&](auto zero, Arrays& arrays) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const auto view = read_region<R>(region, dim_, count, arrays);
      R* to = static_cast<R*>(arrays.write(out, {"out"}, {count}));
      R* to_shift = static_cast<R*>(arrays.write(shift, {"shift"}, {dim_}));
      R* to_square = static_cast<R*>(arrays.write(square, {"square"}, {dim_}));
      const double temperature = non_negative(beta, {"beta"});
      call<R>(arrays, draw, where, [&](const auto& drawn, auto place) {
        size = Backend::softmax(objective(), view, drawn, count, temperature, to, to_shift,
                                to_square, scratch_, place);
      });
    });
    return size;
  }

  void sample(const py::object& region, const py::object& draw, const py::object& first,
              const py::object& out, const py::object& where) {
    with_dtype(region, [&](auto zero, Arrays& arrays) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const int64_t begin = integer(first, {"first"}, 0, UINT32_MAX - count);
      const auto view = read_region<R>(region, dim_, begin + count, arrays);
      R* to = static_cast<R*>(arrays.write(out, {"out"}, {count, dim_}));
      call<R>(arrays, draw, where, [&](const auto& drawn, auto place) {
        Backend::sample(view, drawn, begin, count, to, place);
      });
    });
  }

  void values(const py::object& points, const py::object& out, const py::object& where) {
    const Busy::Hold hold(busy_);
    const auto dispatch = [&](auto zero, Arrays arrays) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const R* x = static_cast<const R*>(arrays.read(points, {"points"}, {count, dim_}));
      R* to = static_cast<R*>(arrays.write(out, {"out"}, {count}));
      const auto place = Backend::place(integer(where, {"where"}, 0, INT64_MAX));
      const auto function = objective();
      check_memory(arrays);
      py::gil_scoped_release release;
      Backend::values(function, x, count, dim_, to, scratch_, place);
    };
    with_float(Backend::kDeviceType, points, "points", dispatch);
  }

  // Memory on the device: as many float64 numbers as calls with this many candidates need.
  int64_t workspace_size(const py::object& count, const py::object& antithetic) const {
    return Backend::workspace_size(dim_, integer(count, {"count"}, 0, UINT32_MAX),
                                   flag(antithetic, {"antithetic"}));
  }
  void set_workspace(const py::object& workspace) {
    const Busy::Hold hold(busy_);
    lent_ = Arrays(Backend::kDeviceType).workspace(workspace);
    Backend::set_workspace(scratch_, lent_.memory, lent_.size);
    workspace_ = workspace;
  }

 protected:
  static int64_t length(const py::object& o, const char* name) {
    const TensorView v = reader().read(o.ptr(), {name});
    if (v.ndim < 1) throw py::value_error(std::string(name) + " must have a dimension");
    if (v.shape[0] > int64_t(UINT32_MAX))
      throw py::value_error(std::string(name) + " must have at most 2^32 - 1 rows");
    return v.shape[0];
  }

  template <class Body>
  void with_dtype(const py::object& region, const Body& body) {
    const Busy::Hold hold(busy_);
    const py::tuple parts = fields(region, "region", 6);
    with_float(Backend::kDeviceType, py::object(parts[0]), "mean",
               [&](auto zero, Arrays arrays) { body(zero, arrays); });
  }

  const LandscapeView& objective() const {
    if (objective_.landscape < 0) throw py::value_error("this plan has no objective");
    return objective_;
  }

  // Reads the rest, checks all, lets go of the interpreter and runs body(draw, place).
  template <class R, class Body>
  void call(Arrays& arrays, const py::object& draw, const py::object& where, const Body& body) {
    const DrawView drawn = read_draw(draw);
    const auto place = Backend::place(integer(where, {"where"}, 0, INT64_MAX));
    check_memory(arrays);
    py::gil_scoped_release release;
    body(drawn, place);
  }

  // To be called last: the interpreter is let go of next.
  void check_memory(Arrays& arrays) const {
    if (workspace_) arrays.workspace(workspace_, lent_);
    arrays.check_memory();
  }

  LandscapeView objective_{};
  int64_t dim_ = 0;
  typename Backend::Scratch scratch_;
  py::object workspace_;
  Lent lent_;  // of it
  Busy busy_;
};

template <class Backend>
void bind_candidates(py::module_& m) {
  using Plan = CandidatePlan<Backend>;
  // Local: the emulated module has the same class, and the tests load both.
  py::class_<Plan>(m, "CandidatePlan", py::module_local(),
                   "Candidates of one objective: evaluated and weighed without being stored.")
      .def(py::init<const py::object&, const py::object&, const py::object&>(),
           py::arg("landscape"), py::arg("parameters"), py::arg("dim"))
      .def("losses", &Plan::losses, py::arg("region"), py::arg("draw"), py::arg("out"),
           py::arg("where"), "Losses of the candidates; `where` is threads or the stream.")
      .def("combine", &Plan::combine, py::arg("region"), py::arg("draw"), py::arg("weights"),
           py::arg("shift"), py::arg("square"), py::arg("where"),
           "Weighted sums of the candidates' ways from the mean.")
      .def("softmax", &Plan::softmax, py::arg("region"), py::arg("draw"), py::arg("beta"),
           py::arg("out"), py::arg("shift"), py::arg("square"), py::arg("where"),
           "Losses and softmax-weighted sums; returns the effective sample size.")
      .def("sample", &Plan::sample, py::arg("region"), py::arg("draw"), py::arg("first"),
           py::arg("out"), py::arg("where"), "Candidates first, first + 1, ...")
      .def("values", &Plan::values, py::arg("points"), py::arg("out"), py::arg("where"),
           "The objective at the rows of a matrix.")
      .def("workspace_size", &Plan::workspace_size, py::arg("count"), py::arg("antithetic"),
           "float64 numbers that set_workspace() needs for calls with this many candidates.")
      .def("set_workspace", &Plan::set_workspace, py::arg("workspace"),
           "Lend scratch memory on the device.");
  m.def(
      "noise_words",
      [](const py::object& draw, const py::object& first, const py::object& out,
         const py::object& form, const py::object& where) {
        const TensorView v = reader().read(out.ptr(), {"out"});
        if (v.ndim != 2) throw py::value_error("out must have two dimensions");
        Arrays arrays(Backend::kDeviceType, DType::f64);
        double* to = static_cast<double*>(arrays.write(out, {"out"}, {v.shape[0], v.shape[1]}));
        const int64_t count = v.shape[0], dim = v.shape[1];
        const int64_t begin = integer(first, {"first"}, 0, UINT32_MAX);
        integer(py::int_(begin + count), {"first + count"}, 0, int64_t(UINT32_MAX) + 1);
        const py::tuple parts = fields(draw, "draw", 5);
        const NoiseKey key = noise_key(py::object(parts[0]), py::object(parts[1]),
                                       py::object(parts[2]), py::object(parts[4]));
        const auto name = std::string(py::str(form));
        const auto place = Backend::place(integer(where, {"where"}, 0, INT64_MAX));
        arrays.check_memory();
        Backend::words(key, begin, count, dim, to, name, place);
      },
      py::arg("draw"), py::arg("first"), py::arg("out"), py::arg("form"), py::arg("where"),
      "The integers behind the noise, as float64; `form` is one of noise_forms().");
  m.def(
      "noise_forms",
      [] {
        py::list forms;
        for (const std::string& form : Backend::noise_forms()) forms.append(form);
        return forms;
      },
      "The instruction sets that noise can be drawn with.");
}

}  // namespace unstuck
