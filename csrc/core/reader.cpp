#include "core/reader.hpp"

namespace unstuck {

namespace {
[[noreturn]] void too_large(Where where) {
  throw py::value_error(where.str() + " has more than 2^63 elements");
}
}  // namespace

Reader& reader() {
  static Reader instance;
  return instance;
}

bool Reader::init(py::object torch, bool use_dlpack) {
  // These references are kept for the life of the process, as the module itself is.
  tensor_type_ = (PyTypeObject*)py::object(torch.attr("Tensor")).release().ptr();
  parameter_type_ =
      (PyTypeObject*)py::object(torch.attr("nn").attr("Parameter")).release().ptr();
  s_grad_ = PyUnicode_InternFromString("grad");
  s_is_neg_ = PyUnicode_InternFromString("is_neg");
  s_layout_ = PyUnicode_InternFromString("layout");
  strided_ = py::object(torch.attr("strided")).release().ptr();
  const char* names[4] = {"float32", "float64", "bfloat16", "float16"};
  for (int i = 0; i < 4; ++i) dtypes_[i] = py::object(torch.attr(names[i])).release().ptr();

  api_ = nullptr;
  const char* attribute = "__dlpack_c_exchange_api__";
  if (use_dlpack && PyObject_HasAttrString((PyObject*)tensor_type_, attribute)) {
    py::object capsule = py::handle((PyObject*)tensor_type_).attr(attribute);
    auto* api =
        (const dlpack::ExchangeAPI*)PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (!api) PyErr_Clear();
    while (api && api->version.major != 1) api = api->prev;
    if (api && api->dltensor_from_py_object) api_ = api;
  }
  return api_ != nullptr;
}

// What a tensor that the exchange API refused is, in words.
void Reader::explain(PyObject* o, Where where) const {
  if (PyErr_Occurred()) PyErr_Clear();
  py::handle t(o);
  if (py::object(t.attr("layout")).ptr() != strided_)
    throw py::value_error(where.str() + " has the layout " +
                          std::string(py::str(t.attr("layout"))) +
                          "; only dense (strided) tensors are updated: call .to_dense() first");
  const std::string what(py::str(py::type::handle_of(t).attr("__name__")));
  throw py::value_error(where.str() + " (" + what + " on " + std::string(py::str(t.attr("device"))) +
                        ") has no memory of its own: meta, fake and wrapper tensors cannot be "
                        "read here; materialise it first");
}

TensorView Reader::read(PyObject* o, Where where) const {
  if (!tensor_type_) throw std::runtime_error("unstuck: native module used before init(torch)");
  if (!PyObject_TypeCheck(o, tensor_type_))
    throw py::type_error(where.str() + " must be a torch.Tensor, not " + Py_TYPE(o)->tp_name);
  if (!api_) return read_slowly(o, where);
  dlpack::Tensor t;
  if (api_->dltensor_from_py_object(o, &t)) explain(o, where);
  TensorView v;
  v.shape = t.shape;
  v.strides = t.strides;
  v.ndim = t.ndim;
  v.numel = 1;
  for (int32_t d = 0; d < t.ndim; ++d)
    if (__builtin_mul_overflow(v.numel, t.shape[d], &v.numel)) too_large(where);
  v.device_type = t.device.type;
  v.device_id = t.device.id;
  if (t.dtype.lanes == 1) {
    if (t.dtype.code == dlpack::kFloat)
      v.dtype = t.dtype.bits == 32   ? DType::f32
                : t.dtype.bits == 64 ? DType::f64
                : t.dtype.bits == 16 ? DType::f16
                                     : DType::other;
    else if (t.dtype.code == dlpack::kBFloat && t.dtype.bits == 16)
      v.dtype = DType::bf16;
  }
  v.data = t.data ? (char*)t.data + t.byte_offset : nullptr;
  if (v.numel && !v.data) explain(o, where);
  return v;
}

TensorView Reader::read_slowly(PyObject* o, Where where) const {
  py::handle t(o);
  if (py::object(t.attr("layout")).ptr() != strided_) explain(o, where);
  const py::tuple shape = t.attr("shape"), strides = t.attr("stride")();
  const size_t n = shape.size();
  scratch_.resize(2 * n);
  TensorView v;
  v.ndim = int32_t(n);
  v.numel = 1;
  for (size_t d = 0; d < n; ++d) {
    scratch_[d] = shape[d].cast<int64_t>();
    if (__builtin_mul_overflow(v.numel, scratch_[d], &v.numel)) too_large(where);
    scratch_[n + d] = strides[d].cast<int64_t>();
  }
  v.shape = scratch_.data();
  v.strides = scratch_.data() + n;
  const py::object dtype = t.attr("dtype");
  for (int i = 0; i < 4; ++i)
    if (dtype.ptr() == dtypes_[i]) v.dtype = DType(i);
  const py::object device = t.attr("device");
  const std::string kind(py::str(device.attr("type")));
  v.device_type = kind == "cpu" ? dlpack::kCPU : kind == "cuda" ? dlpack::kCUDA : -1;
  v.device_id = device.attr("index").is_none() ? 0 : device.attr("index").cast<int32_t>();
  if (v.device_type < 0) explain(o, where);
  try {
    v.data = PyLong_AsVoidPtr(py::object(t.attr("data_ptr")()).ptr());
  } catch (py::error_already_set&) {
    explain(o, where);
  }
  if (v.numel && !v.data) explain(o, where);
  return v;
}

}  // namespace unstuck
