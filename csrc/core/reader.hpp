// Reads torch tensors without any torch header: through the DLPack C exchange API (torch >= 2.10),
// or through the tensor's own methods where that API is missing.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "core/arguments.hpp"
#include "core/dlpack.hpp"
#include "core/dtype.hpp"

namespace unstuck {

// What a tensor is, at this moment. `shape` and `strides` live as long as the tensor is unchanged,
// or, on the slow path, until the next read.
struct TensorView {
  void* data = nullptr;
  int64_t numel = 0;
  const int64_t* shape = nullptr;
  const int64_t* strides = nullptr;  // null: row-major
  int32_t ndim = 0;
  int32_t device_type = 0, device_id = 0;
  DType dtype = DType::other;
  int32_t bits = 0;  // of one element
};

class Reader {
 public:
  // Binds to the imported torch. Returns whether the exchange API is used; `use_handles` allows the
  // cheaper second looks of core/handle.hpp beside it.
  bool init(py::object torch, bool use_dlpack, bool use_handles);
  bool ready() const { return tensor_type_ != nullptr; }

  bool is_tensor(PyObject* o) const { return tensor_type_ && PyObject_TypeCheck(o, tensor_type_); }
  bool is_plain(PyObject* o) const {  // a torch.Tensor or nn.Parameter, no other subclass
    return Py_TYPE(o) == tensor_type_ || Py_TYPE(o) == parameter_type_;
  }
  // Throws ValueError / TypeError with the place, the value and the remedy.
  TensorView read(PyObject* o, Where where) const;
  // The negation bit is in no tensor view, so it is asked for apart.
  bool is_neg(PyObject* o) const {
    if (!is_plain(o)) ++python_calls();
    return ask(o, s_is_neg_);
  }
  void refuse_neg(PyObject* o, Where where) const {
    if (is_neg(o))
      throw py::value_error(where.str() + " is a lazily negated view; call .resolve_neg() first");
  }

  // Whether a torch function mode is active: then Python code answers for every tensor.
  bool has_modes() const {
    return !count_modes_ || PyLong_AsLong(owned(PyObject_CallNoArgs(count_modes_)).ptr()) != 0;
  }

  PyObject* grad_name() const { return s_grad_; }

 private:
  static py::object owned(PyObject* o) {
    if (!o) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(o);
  }
  bool ask(PyObject* o, PyObject* method) const {
    return owned(PyObject_CallMethodNoArgs(o, method)).ptr() == Py_True;
  }
  TensorView read_quickly(PyObject* o, Where where) const;  // through the exchange API
  TensorView read_slowly(PyObject* o, Where where) const;
  [[noreturn]] void refuse(PyObject* o, Where where) const;

  const dlpack::ExchangeAPI* api_ = nullptr;
  PyTypeObject* tensor_type_ = nullptr;
  PyTypeObject* parameter_type_ = nullptr;
  PyObject *s_grad_ = nullptr, *s_is_neg_ = nullptr, *s_layout_ = nullptr, *strided_ = nullptr;
  PyObject* count_modes_ = nullptr;
  PyObject* dtypes_[4] = {};
  mutable std::vector<int64_t> scratch_;  // shape and strides of the slow path's last tensor
};

Reader& reader();  // one per module

}  // namespace unstuck
