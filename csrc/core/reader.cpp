#include "core/reader.hpp"

#include "core/handle.hpp"

namespace unstuck {

namespace {

int64_t count(const int64_t* shape, int32_t ndim, Where where) {
  int64_t n = 1;
  bool overflow = false;
  for (int32_t d = 0; d < ndim; ++d) {
    if (shape[d] == 0) return 0;
    overflow |= __builtin_mul_overflow(n, shape[d], &n);
  }
  if (overflow) throw py::value_error(where.str() + " has more than 2^63 elements");
  return n;
}

PyTypeObject* type_named(const py::handle& owner, const char* name) {
  py::object type = owner.attr(name);
  if (!PyType_Check(type.ptr()))
    throw py::type_error(std::string("torch.") + name + " must be a class, not " + shown(type));
  return (PyTypeObject*)type.release().ptr();
}

}  // namespace

Reader& reader() {
  static Reader instance;
  return instance;
}

bool Reader::init(py::object torch, bool use_dlpack, bool use_handles) {
  // These references are kept for the life of the process, as the module itself is.
  PyTypeObject* tensor_type = type_named(torch, "Tensor");
  parameter_type_ = type_named(torch.attr("nn"), "Parameter");
  s_grad_ = PyUnicode_InternFromString("grad");
  s_is_neg_ = PyUnicode_InternFromString("is_neg");
  s_layout_ = PyUnicode_InternFromString("layout");
  strided_ = py::object(torch.attr("strided")).release().ptr();
  const char* names[4] = {"float32", "float64", "bfloat16", "float16"};
  for (int i = 0; i < 4; ++i) dtypes_[i] = py::object(torch.attr(names[i])).release().ptr();
  count_modes_ = py::object(py::getattr(torch.attr("_C"), "_len_torch_function_stack", py::none()))
                     .release()
                     .ptr();
  if (count_modes_ == Py_None) count_modes_ = nullptr;
  tensor_type_ = tensor_type;  // last: it says that the reader is ready

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
  Handle::init(torch, use_handles && api_);
  return api_ != nullptr;
}

// Why a tensor that cannot be read is refused, in words.
void Reader::refuse(PyObject* o, Where where) const {
  if (PyErr_Occurred()) forget_error();
  py::handle t(o);
  if (py::object(t.attr("layout")).ptr() != strided_)
    throw py::value_error(where.str() + " has the layout " +
                          std::string(py::str(t.attr("layout"))) +
                          "; only dense (strided) tensors are updated: call .to_dense() first");
  const std::string what(py::str(py::type::handle_of(t).attr("__name__")));
  throw py::value_error(where.str() + " (" + what + " of " + std::string(py::str(t.attr("dtype"))) +
                        " on " + std::string(py::str(t.attr("device"))) +
                        ") has no memory of plain numbers: meta, fake, quantized, nested and "
                        "wrapper tensors cannot be read here; materialise it first");
}

TensorView Reader::read(PyObject* o, Where where) const {
  if (!tensor_type_) throw std::runtime_error("unstuck: native module used before init(torch)");
  if (!PyObject_TypeCheck(o, tensor_type_))
    throw py::type_error(where.str() + " must be a torch.Tensor, not " + Py_TYPE(o)->tp_name);
  TensorView v = api_ ? read_quickly(o, where) : read_slowly(o, where);
  // A view of a storage without memory lies at its offset. Addresses are higher as a rule, so that
  // hardly any tensor is asked.
  if (v.numel && uintptr_t(v.data) < uintptr_t(1) << 40) {
    if (!is_plain(o)) ++python_calls();
    const auto offset = py::handle(o).attr("storage_offset")().cast<uint64_t>();
    v = api_ ? read_quickly(o, where) : read_slowly(o, where);  // Python code may have run
    if (uintptr_t(v.data) == offset * uint64_t(v.bits / 8)) refuse(o, where);
  }
  return v;
}

TensorView Reader::read_quickly(PyObject* o, Where where) const {
  dlpack::Tensor t;
  if (api_->dltensor_from_py_object(o, &t)) refuse(o, where);
  TensorView v;
  v.shape = t.shape;
  v.strides = t.strides;
  v.ndim = t.ndim;
  v.numel = count(t.shape, t.ndim, where);
  v.device_type = t.device.type;
  v.device_id = t.device.id;
  v.bits = t.dtype.bits * t.dtype.lanes;
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
  if (v.numel && !v.data) refuse(o, where);
  return v;
}

TensorView Reader::read_slowly(PyObject* o, Where where) const {
  py::handle t(o);
  if (py::object(t.attr("layout")).ptr() != strided_) refuse(o, where);
  TensorView v;
  try {
    const py::tuple shape = t.attr("shape"), strides = t.attr("stride")();
    const size_t n = shape.size();
    scratch_.resize(2 * n);
    for (size_t d = 0; d < n; ++d) {
      scratch_[d] = shape[d].cast<int64_t>();
      scratch_[n + d] = strides[d].cast<int64_t>();
    }
    v.ndim = int32_t(n);
  } catch (const std::exception&) {
    refuse(o, where);  // a nested or symbolic shape
  }
  v.numel = count(scratch_.data(), v.ndim, where);
  v.shape = scratch_.data();
  v.strides = scratch_.data() + v.ndim;
  const py::object dtype = t.attr("dtype");
  for (int i = 0; i < 4; ++i)
    if (dtype.ptr() == dtypes_[i]) v.dtype = DType(i);
  v.bits = 8 * t.attr("element_size")().cast<int32_t>();
  const py::object device = t.attr("device");
  const std::string kind(py::str(device.attr("type")));
  v.device_type = kind == "cpu" ? dlpack::kCPU : kind == "cuda" ? dlpack::kCUDA : -1;
  v.device_id = device.attr("index").is_none() ? 0 : device.attr("index").cast<int32_t>();
  if (v.device_type < 0) refuse(o, where);
  try {
    v.data = reinterpret_cast<void*>(t.attr("data_ptr")().cast<uintptr_t>());
  } catch (const std::exception&) {
    refuse(o, where);  // no storage
  }
  if (v.numel && !v.data) refuse(o, where);
  return v;
}

}  // namespace unstuck
