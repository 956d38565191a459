// Reads what an entry point is told about candidates: where they lie, which they are, and of which
// function. `region` is (mean, sigma, scale, low, high, bound), `draw` is (seed, iteration, stream,
// antithetic, rounds).
#pragma once
#include "bind_arrays.hpp"
#include "candidate_terms.hpp"

namespace unstuck {

inline py::tuple fields(const py::object& o, const char* name, size_t size) {
  if (!PyTuple_Check(o.ptr()) || size_t(PyTuple_GET_SIZE(o.ptr())) != size)
    throw py::type_error(std::string(name) + " must be a tuple of " + std::to_string(size) +
                         " fields, not " + shown(o));
  return py::reinterpret_borrow<py::tuple>(o);
}

inline NoiseKey noise_key(py::handle seed, py::handle iteration, py::handle stream,
                          py::handle rounds) {
  PyObject* index = PyNumber_Index(seed.ptr());
  if (!index) {
    forget_error();
    throw py::type_error("seed must be an integer, not " + shown(seed));
  }
  const unsigned long long key = PyLong_AsUnsignedLongLong(index);
  Py_DECREF(index);
  if (key == static_cast<unsigned long long>(-1) && PyErr_Occurred()) {
    forget_error();
    throw py::value_error("seed must be from 0 to 2^64 - 1, not " + shown(seed));
  }
  const int64_t n = integer(rounds, {"rounds"}, 7, 10);
  if (n != 7 && n != 10) throw py::value_error("rounds must be 7 or 10, not " + shown(rounds));
  return {uint32_t(key), uint32_t(key >> 32),
          uint32_t(integer(iteration, {"iteration"}, 0, UINT32_MAX)),
          uint32_t(integer(stream, {"stream"}, 0, UINT32_MAX)), int(n)};
}

// A landscape by its number, or -1 for none, and its parameters.
inline LandscapeView read_landscape(const py::object& landscape, const py::object& parameters,
                                    int landscapes) {
  LandscapeView view{};
  view.landscape = int(integer(landscape, {"landscape"}, -1, landscapes - 1));
  const py::sequence list = sequence(parameters, "parameters");
  if (list.size() > 2) throw py::value_error("parameters must be at most two numbers");
  for (size_t i = 0; i < list.size(); ++i)
    view.parameters.p[i] = number(py::object(list[i]), {"parameters", i});
  return view;
}

inline DrawView read_draw(const py::object& draw) {
  const py::tuple parts = fields(draw, "draw", 5);
  const auto item = [&](size_t i) { return py::object(parts[i]); };
  return {noise_key(item(0), item(1), item(2), item(4)), flag(item(3), {"antithetic"})};
}

// The box of a region, and its size.
template <class R>
RegionView<R> read_limits(const py::tuple& parts, int64_t dim, Arrays& arrays) {
  const py::object low(parts[3]), high(parts[4]), bound(parts[5]);
  RegionView<R> view{};
  view.dim = dim;
  if (!low.is_none()) view.low = static_cast<const R*>(arrays.read(low, {"low"}, {dim}));
  if (!high.is_none()) view.high = static_cast<const R*>(arrays.read(high, {"high"}, {dim}));
  if ((view.low == nullptr) != (view.high == nullptr) && dim)
    throw py::value_error("low and high must both be given, or neither");
  const auto name = shown(bound);
  if (name != "'clip'" && name != "'reflect'")
    throw py::value_error("bound must be 'clip' or 'reflect', not " + name);
  view.bound = !view.low ? Bound::none : name == "'clip'" ? Bound::clip : Bound::reflect;
  return view;
}

// All of a region, for candidates [0, count).
template <class R>
RegionView<R> read_region(const py::object& region, int64_t dim, int64_t count, Arrays& arrays) {
  const py::tuple parts = fields(region, "region", 6);
  RegionView<R> view = read_limits<R>(parts, dim, arrays);
  const py::object mean(parts[0]), sigma(parts[1]), scale(parts[2]);
  view.mean = static_cast<const R*>(arrays.read(mean, {"mean"}, {dim}));
  if (reader().is_tensor(sigma.ptr()))
    view.sigmas = static_cast<const R*>(arrays.read(sigma, {"sigma"}, {count}));
  else
    view.sigma = R(number(sigma, {"sigma"}));
  if (!scale.is_none()) view.scale = static_cast<const R*>(arrays.read(scale, {"scale"}, {dim}));
  return view;
}

}  // namespace unstuck
