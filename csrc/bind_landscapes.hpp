// The entry point of the landscapes' gradients: unstuck.ops.landscapes is the Python side.
#pragma once
#include "bind_region.hpp"

namespace unstuck {

template <class Backend>
void bind_landscape_gradients(py::module_& m) {
  m.def(
      "landscape_gradients",
      [](const py::object& landscape, const py::object& parameters, const py::object& points,
         const py::object& out, const py::object& gradients, const py::object& where,
         const py::object& workspace) {
        const LandscapeView function = read_landscape(landscape, parameters, Backend::kLandscapes);
        if (function.landscape < 0) throw py::value_error("landscape must be at least 0");
        const TensorView v = reader().read(points.ptr(), {"points"});
        if (v.ndim != 2 || v.shape[1] < 1)
          throw py::value_error("points must have the shape [N, D], D at least 1");
        const int64_t count = v.shape[0], dim = v.shape[1];
        with_float(Backend::kDeviceType, points, "points", [&](auto zero, Arrays arrays) {
          using R = decltype(zero);
          const R* x = static_cast<const R*>(arrays.read(points, {"points"}, {count, dim}));
          R* to = static_cast<R*>(arrays.write(out, {"out"}, {count}));
          R* g = static_cast<R*>(arrays.write(gradients, {"gradients"}, {count, dim}));
          const Lent lent = arrays.workspace(workspace);
          const auto place = Backend::place(integer(where, {"where"}, 0, INT64_MAX));
          arrays.check_memory();
          typename Backend::Scratch scratch;
          Backend::set_workspace(scratch, lent.memory, lent.size);
          py::gil_scoped_release release;
          Backend::gradients(function, x, count, dim, to, g, scratch, place);
        });
      },
      py::arg("landscape"), py::arg("parameters"), py::arg("points"), py::arg("out"),
      py::arg("gradients"), py::arg("where"), py::arg("workspace") = py::none(),
      "A landscape and its gradients at rows of a matrix; CUDA wants a `workspace`.");
}

}  // namespace unstuck
