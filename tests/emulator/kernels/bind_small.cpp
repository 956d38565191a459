// A few of the kernels without pybind11, which takes a sanitizer half a minute to compile.
#include <Python.h>

#include <exception>

#include "selftest.hpp"

namespace {

template <class Action>
PyObject* guarded(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* fault(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  unsigned long long out = 0;
  if (!PyArg_ParseTuple(arguments, "sK", &name, &out)) return nullptr;
  return guarded([&] { selftest::fault(name, out); });
}

PyObject* block_sum(PyObject*, PyObject* arguments) {
  unsigned long long values = 0, out = 0;
  int n = 0, blocks = 0, threads = 0;
  if (!PyArg_ParseTuple(arguments, "KKiii", &values, &out, &n, &blocks, &threads)) return nullptr;
  return guarded([&] { selftest::block_sum(values, out, n, blocks, threads); });
}

PyMethodDef methods[] = {{"fault", fault, METH_VARARGS, nullptr},
                         {"block_sum", block_sum, METH_VARARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "emulator_small",
                          nullptr,
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit_emulator_small() {
  return PyModule_Create(&definition);
}
