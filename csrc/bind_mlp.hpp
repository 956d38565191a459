// The entry points of multi-layer perceptrons, and their argument checks.
//
// `net` is (X, y, layers, loss, factor, dim); a layer is (in, out, weight, bias, activation), where
// weight and bias (-1: none) are places in the flat vector.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "bind_data.hpp"
#include "mlp_terms.hpp"

namespace unstuck {

inline MlpLayer read_layer(const py::object& o, size_t index, int64_t dim) {
  const py::tuple parts = fields(o, "a layer", 5);
  const auto item = [&](size_t i, int64_t low, int64_t high) {
    return integer(py::object(parts[i]), {"layers", index}, low, high);
  };
  MlpLayer l{item(0, 1, INT32_MAX), item(1, 1, INT32_MAX), item(2, 0, dim), item(3, -1, dim),
             Activation(item(4, 0, kActivations - 1))};
  if (l.in * l.out > dim - l.weight || (l.bias >= 0 && l.out > dim - l.bias))
    throw py::value_error("layers[" + std::to_string(index) + "] goes beyond the vector of " +
                          std::to_string(dim) + " parameters");
  return l;
}

// A gradient's numbers are each written by one layer.
inline void check_apart(const MlpData& net) {
  std::vector<std::pair<int64_t, int64_t>> parts;
  for (const MlpLayer& l : net.layers) {
    parts.push_back({l.weight, l.weight + l.in * l.out});
    if (l.bias >= 0) parts.push_back({l.bias, l.bias + l.out});
  }
  std::sort(parts.begin(), parts.end());
  for (size_t i = 1; i < parts.size(); ++i)
    if (parts[i].first < parts[i - 1].second)
      throw py::value_error("layers share parameters, from " + std::to_string(parts[i].first) +
                            " on");
}

inline MlpData read_mlp(Arrays& arrays, const py::object& net) {
  const py::tuple parts = fields(net, "net", 6);
  const auto item = [&](size_t i) { return py::object(parts[i]); };
  MlpData data{};
  data.dim = integer(item(5), {"dim"}, 1, INT64_MAX / 16);
  data.loss = MlpLoss(integer(item(3), {"loss"}, 0, kMlpLosses - 1));
  data.factor = number(item(4), {"factor"});
  const py::sequence layers = sequence(item(2), "layers");
  if (layers.size() < 1) throw py::value_error("layers must have at least one layer");
  const auto x = arrays.matrix(item(0), {"X"});
  data.x = x.data, data.n = x.rows, data.features = x.columns, data.stride = x.stride;
  for (size_t i = 0; i < layers.size(); ++i) {
    data.layers.push_back(read_layer(py::object(layers[i]), i, data.dim));
    const int64_t width = i ? data.layers[i - 1].out : data.features;
    if (data.layers[i].in != width)
      throw py::value_error("layers[" + std::to_string(i) + "] takes " +
                            std::to_string(data.layers[i].in) + " numbers, but gets " +
                            std::to_string(width));
  }
  check_apart(data);
  data.y = data.loss == MlpLoss::cross_entropy
               ? arrays.read_int64(item(1), {"y"}, data.n)
               : arrays.read_numbers(item(1), {"y"}, data.n * data.outputs());
  return data;
}

// A Backend has kDeviceType, mlp_points, mlp_candidates and mlp_line; `where` is the number of
// threads on the CPU, the stream on CUDA. A workspace is None on the CPU, and float64 memory of the
// device on CUDA.
template <class Backend>
struct MlpCalls {
  static int64_t length(const py::object& o, const char* name) {
    return reader().read(o.ptr(), {name}).numel;
  }
  template <class Body>
  static void with_net(const py::object& net, const py::object& workspace, const Body& body) {
    Arrays arrays(Backend::kDeviceType);
    const MlpData data = read_mlp(arrays, net);
    const Lent lent = arrays.workspace(workspace);
    if (arrays.dtype() == DType::f32)
      body(data, arrays, lent, float());
    else
      body(data, arrays, lent, double());
  }

  static void points(const py::object& net, const py::object& points, const py::object& losses,
                     const py::object& gradients, uintptr_t where, const py::object& workspace) {
    with_net(net, workspace, [&](const MlpData& data, Arrays& arrays, const Lent& lent, auto zero) {
      using R = decltype(zero);
      const int64_t count = length(losses, "losses");
      const R* x = static_cast<const R*>(arrays.read(points, {"points"}, {count, data.dim}));
      R* out = static_cast<R*>(arrays.write(losses, {"losses"}, {count}));
      R* slopes = gradients.is_none()
                      ? nullptr
                      : static_cast<R*>(arrays.write(gradients, {"gradients"}, {count, data.dim}));
      arrays.check_memory();
      py::gil_scoped_release release;
      Backend::mlp_points(data, x, count, out, slopes, lent, where);
    });
  }

  static void candidates(const py::object& net, const py::object& region, const py::object& draw,
                         const py::object& losses, uintptr_t where, const py::object& workspace) {
    with_net(net, workspace, [&](const MlpData& data, Arrays& arrays, const Lent& lent, auto zero) {
      using R = decltype(zero);
      const int64_t count = length(losses, "losses");
      if (count > int64_t(UINT32_MAX))
        throw py::value_error("losses has more than 2^32 - 1 entries");
      R* out = static_cast<R*>(arrays.write(losses, {"losses"}, {count}));
      const RegionView<R> view = read_region<R>(region, data.dim, count, arrays);
      const DrawView drawn = read_draw(draw);
      arrays.check_memory();
      py::gil_scoped_release release;
      Backend::mlp_candidates(data, view, drawn, count, out, lent, where);
    });
  }

  static void line(const py::object& net, const py::object& w, const py::object& d,
                   const py::object& rates, const py::object& losses, uintptr_t where,
                   const py::object& workspace) {
    with_net(net, workspace, [&](const MlpData& data, Arrays& arrays, const Lent& lent, auto zero) {
      using R = decltype(zero);
      const int64_t count = length(losses, "losses");
      const auto read = [&](const py::object& o, const char* name, int64_t size) {
        return static_cast<const R*>(arrays.read(o, {name}, {size}));
      };
      const R *from = read(w, "w", data.dim), *along = read(d, "d", data.dim),
              *steps = read(rates, "rates", count);
      R* out = static_cast<R*>(arrays.write(losses, {"losses"}, {count}));
      arrays.check_memory();
      py::gil_scoped_release release;
      Backend::mlp_line(data, from, along, steps, count, out, lent, where);
    });
  }
};

template <class Backend>
void bind_mlp(py::module_& m) {
  using Calls = MlpCalls<Backend>;
  m.def("mlp_points", &Calls::points, py::arg("net"), py::arg("points"), py::arg("losses"),
        py::arg("gradients"), py::arg("where"), py::arg("workspace") = py::none(),
        "Losses of a multi-layer perceptron at points and, unless None, their gradients.");
  m.def("mlp_candidates", &Calls::candidates, py::arg("net"), py::arg("region"), py::arg("draw"),
        py::arg("losses"), py::arg("where"), py::arg("workspace") = py::none(),
        "The same of candidates around a point.");
  m.def("mlp_line", &Calls::line, py::arg("net"), py::arg("w"), py::arg("d"), py::arg("rates"),
        py::arg("losses"), py::arg("where"), py::arg("workspace") = py::none(),
        "The same at w - rates d.");
}

}  // namespace unstuck
