// The entry point of Adam steps from many points of a multi-layer perceptron, and its checks.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "bind_adam.hpp"
#include "bind_mlp.hpp"
#include "cpu/mlp.hpp"

namespace unstuck {

// Numbers [begin, end) of a point, and what Adam does to them.
struct DescentSegment {
  int64_t begin, end;
  AdamCoefs<double> coefs;
};

// No coordinate is stepped twice.
inline void check_apart(std::vector<DescentSegment> segments) {
  std::sort(segments.begin(), segments.end(),
            [](const DescentSegment& a, const DescentSegment& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < segments.size(); ++i)
    if (segments[i].begin < segments[i - 1].end)
      throw py::value_error("segments share coordinates, from " +
                            std::to_string(segments[i].begin) + " on");
}

inline std::vector<DescentSegment> read_segments(const py::object& list, int32_t device_type,
                                                 int64_t dim, double step) {
  const TensorTable none(device_type);
  StepArguments arguments(device_type, none);
  const py::sequence tuples = sequence(list, "segments");
  std::vector<DescentSegment> segments;
  for (size_t i = 0; i < tuples.size(); ++i) {
    const py::tuple parts = fields(py::object(tuples[i]), "a segment", 3);
    DescentSegment s{};
    s.begin = integer(py::object(parts[0]), {"segments", i}, 0, dim);
    s.end = integer(py::object(parts[1]), {"segments", i}, s.begin, dim);
    const py::object group(parts[2]);
    check_fields(group, {"segments", i}, kAdamFields);
    if (reader().is_tensor(PyTuple_GET_ITEM(group.ptr(), kAdamLr)))
      throw py::type_error(Where{"segments", i, "lr"}.str() + " must be a number, not a tensor");
    s.coefs = adam_coefficients(adam_group(arguments, group, i).resolved(), step, 1);
    segments.push_back(s);
  }
  check_apart(segments);
  return segments;
}

// Those of the weights and of the biases of each layer; each of these lies in one segment.
inline std::vector<AdamCoefs<double>> coefficients_of(const MlpData& net,
                                                      const std::vector<DescentSegment>& segments) {
  std::vector<AdamCoefs<double>> all;
  const auto add = [&](int64_t begin, int64_t length, size_t layer) {
    const auto holds = [&](const DescentSegment& s) {
      return s.begin <= begin && begin + length <= s.end;
    };
    const auto found = std::find_if(segments.begin(), segments.end(), holds);
    if (found == segments.end())
      throw py::value_error("no segment holds all of layers[" + std::to_string(layer) + "]");
    all.push_back(found->coefs);
  };
  for (size_t l = 0; l < net.layers.size(); ++l) {
    const MlpLayer& m = net.layers[l];
    add(m.weight, m.in * m.out, l);
    if (m.bias >= 0)
      add(m.bias, m.out, l);
    else
      all.push_back(all.back());
  }
  return all;
}

template <class Backend>
void mlp_descend(const py::object& net, const py::object& points, const py::object& exp_avgs,
                 const py::object& exp_avg_sqs, const py::object& step, const py::object& segments,
                 const py::object& losses, uintptr_t where) {
  MlpCalls<Backend>::with_net(
      net, py::none(), [&](const MlpData& data, Arrays& arrays, const Lent&, auto zero) {
        using R = decltype(zero);
        const int64_t count = MlpCalls<Backend>::length(losses, "losses");
        const auto write = [&](const py::object& o, const char* name) {
          return static_cast<R*>(arrays.write(o, {name}, {count, data.dim}));
        };
        R *x = write(points, "points"), *m = write(exp_avgs, "exp_avgs"),
          *v = write(exp_avg_sqs, "exp_avg_sqs");
        R* out = static_cast<R*>(arrays.write(losses, {"losses"}, {count}));
        const int64_t t = integer(step, {"step"}, 1, INT64_C(1) << 53);
        const auto coefs = coefficients_of(
            data, read_segments(segments, Backend::kDeviceType, data.dim, double(t)));
        arrays.check_memory();
        py::gil_scoped_release release;
        cpu::mlp_descend(data, x, m, v, count, coefs, t == 1, out, Backend::sane(where));
      });
}

template <class Backend>
void bind_mlp_descent(py::module_& m) {
  m.def("mlp_descend", &mlp_descend<Backend>, py::arg("net"), py::arg("points"),
        py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("step"), py::arg("segments"),
        py::arg("losses"), py::arg("where"),
        "A step of Adam from each of many points of a multi-layer perceptron.");
}

}  // namespace unstuck
