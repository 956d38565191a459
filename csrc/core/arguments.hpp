// Reads the plain arguments of an entry point: numbers, flags, lists. Every error names the
// argument and shows the value.
#pragma once
#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <string>

namespace unstuck {

namespace py = pybind11;

// The name of an argument in an error text: "found_inf", "grads[3]", "groups[0].lr".
struct Where {
  static constexpr size_t kWhole = size_t(-1);
  const char* list;
  size_t index = kWhole;
  const char* field = nullptr;
  std::string str() const {
    std::string s = list;
    if (index != kWhole) s += "[" + std::to_string(index) + "]";
    return field ? s + "." + field : s;
  }
};

// A value in an error text. Numbers and short strings are shown, of the rest only the type: a
// tensor's text may be long, costly, or itself an error.
inline std::string shown(py::handle x) {
  PyObject* o = x.ptr();
  if (o == Py_None || PyBool_Check(o) || PyFloat_Check(o) || PyLong_Check(o) ||
      PyUnicode_Check(o)) {
    if (PyObject* text = PyObject_ASCII(o)) {
      const auto s = std::string(py::str(py::reinterpret_steal<py::object>(text)));
      return s.size() <= 80 ? s : s.substr(0, 76) + " ...";
    }
    PyErr_Clear();  // an integer with too many digits
  }
  return std::string("a value of type ") + Py_TYPE(o)->tp_name;
}

// Forgets the error that a failed conversion left, unless it is an interrupt.
inline void forget_error() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
  PyErr_Clear();
}

// How often a conversion may have run Python code that is not the interpreter's own.
inline uint64_t& python_calls() {
  static uint64_t calls = 0;
  return calls;
}

inline py::sequence sequence(const py::object& x, const char* name) {
  if (!PyList_Check(x.ptr()) && !PyTuple_Check(x.ptr()))
    throw py::type_error(std::string(name) + " must be a list or a tuple, not " + shown(x));
  return py::reinterpret_borrow<py::sequence>(x);
}

// A tuple of so many fields, or an error.
inline void check_fields(const py::handle& tuple, Where where, int fields) {
  if (!PyTuple_Check(tuple.ptr()))
    throw py::type_error(where.str() + " must be a tuple, not " + shown(tuple));
  if (PyTuple_GET_SIZE(tuple.ptr()) != fields)
    throw py::value_error(where.str() + " must have " + std::to_string(fields) + " fields, not " +
                          std::to_string(PyTuple_GET_SIZE(tuple.ptr())));
}

// A finite number, or whatever float() takes as one.
inline double number(py::handle x, Where where) {
  if (!PyFloat_Check(x.ptr()) && !PyLong_CheckExact(x.ptr())) ++python_calls();
  const double value = PyFloat_AsDouble(x.ptr());
  if (value == -1 && PyErr_Occurred()) {
    forget_error();
    throw py::type_error(where.str() + " must be a number that float64 holds, not " + shown(x));
  }
  if (!std::isfinite(value))
    throw py::value_error(where.str() + " must be finite, not " + shown(x));
  return value;
}
inline double non_negative(py::handle x, Where where) {
  const double value = number(x, where);
  if (value < 0) throw py::value_error(where.str() + " must be at least 0, not " + shown(x));
  return value;
}
inline double beta(py::handle x, Where where) {
  const double value = number(x, where);
  if (!(value >= 0 && value < 1))
    throw py::value_error(where.str() + " must be in [0, 1), not " + shown(x));
  return value;
}

inline int64_t integer(py::handle x, Where where, int64_t low, int64_t high) {
  if (!PyLong_Check(x.ptr())) ++python_calls();
  PyObject* index = PyNumber_Index(x.ptr());
  if (!index) {
    forget_error();
    throw py::type_error(where.str() + " must be an integer, not " + shown(x));
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index, &overflow);
  Py_DECREF(index);
  if (overflow || value < low || value > high)
    throw py::value_error(where.str() + " must be from " + std::to_string(low) + " to " +
                          std::to_string(high) + ", not " + shown(x));
  return value;
}

inline bool flag(py::handle x, Where where) {
  if (!PyBool_Check(x.ptr())) ++python_calls();
  py::detail::make_caster<bool> caster;  // without conversion: a bool, or numpy's
  if (caster.load(x, false)) return bool(caster);
  if (PyLong_Check(x.ptr())) return PyObject_IsTrue(x.ptr()) == 1;
  throw py::type_error(where.str() + " must be True or False, not " + shown(x));
}

}  // namespace unstuck
