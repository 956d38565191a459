// Reads the objectives with data.
#pragma once
#include <string>

#include "attention_terms.hpp"
#include "bind_region.hpp"

namespace unstuck {

inline void check_size(int64_t size, const char* name) {
  if (size < 1 || size > INT32_MAX)
    throw py::value_error(std::string(name) + " must be from 1 to 2147483647, not " +
                          std::to_string(size));
}

inline Regression read_regression(Arrays& arrays, const py::object& x, const py::object& y,
                                  double lam, double kappa, bool logistic) {
  const auto m = arrays.matrix(x, {"X"});
  return {m.data,        arrays.read_numbers(y, {"y"}, m.rows),
          m.rows,        m.columns,
          m.stride,      lam,
          kappa,         logistic,
          arrays.dtype()};
}

inline NetData read_net(Arrays& arrays, const py::object& x, const py::object& y,
                        bool cross_entropy, int64_t hidden, int64_t outputs) {
  check_size(hidden, "hidden");
  check_size(outputs, "outputs");
  const auto m = arrays.matrix(x, {"X"});
  const void* labels =
      cross_entropy ? arrays.read_int64(y, {"y"}, m.rows) : arrays.read_numbers(y, {"y"}, m.rows);
  return {m.data, labels, m.rows, m.columns, m.stride, hidden, outputs, cross_entropy};
}

// ("regression", X, y, lam, kappa, logistic) or ("net", X, y, cross_entropy, hidden, outputs), of
// `dim` parameters.
inline ObjectiveView read_data(Arrays& arrays, const py::object& data, int64_t dim) {
  const py::tuple parts = fields(data, "data", 6);
  const auto item = [&](size_t i) { return py::object(parts[i]); };
  const std::string kind = shown(item(0));
  const auto checked = [&](const auto& objective, int64_t own) -> ObjectiveView {
    if (own == dim) return objective;
    throw py::value_error("data must be of an objective with " + std::to_string(dim) +
                          " parameters, as the plan, not " + std::to_string(own));
  };
  if (kind == "'regression'") {
    const Regression r = read_regression(arrays, item(1), item(2), number(item(3), {"lam"}),
                                         number(item(4), {"kappa"}), flag(item(5), {"logistic"}));
    return checked(r, r.dim);
  }
  if (kind != "'net'")
    throw py::value_error("data must begin with 'regression' or 'net', not " + kind);
  const NetData net = read_net(arrays, item(1), item(2), flag(item(3), {"cross_entropy"}),
                               integer(item(4), {"hidden"}, 1, INT32_MAX),
                               integer(item(5), {"outputs"}, 1, INT32_MAX));
  return checked(net, net.dim());
}

}  // namespace unstuck
