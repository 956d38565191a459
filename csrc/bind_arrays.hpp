// Reads the tensors of one call: all of one dtype and on one device, checked for their shapes and
// for memory that is written and shared, and looked at again when all else has been converted.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "core/seen.hpp"
#include "core/spans.hpp"
#include "core/table.hpp"

namespace unstuck {

// Memory that a caller lends: float64 numbers of the device.
struct Lent {
  double* memory = nullptr;
  int64_t size = 0;
};

class Arrays {
 public:
  // Without a dtype it is that of the first tensor.
  explicit Arrays(int32_t device_type, DType dtype = DType::other)
      : device_type_(device_type), dtype_(dtype) {}

  DType dtype() const { return dtype_; }

  // Dense tensors of these sizes.
  using Shape = std::initializer_list<int64_t>;
  const void* read(py::handle o, Where where, Shape shape) {
    const TensorView v = number_tensor(o, where);
    check_shape(v, where, shape);
    return note(v, where);
  }
  void* write(py::handle o, Where where, Shape shape) {
    const TensorView v = number_tensor(o, where);
    check_shape(v, where, shape);
    return note_written(v, where);
  }
  // This many numbers in a row, whatever the shape.
  const void* read_numbers(py::handle o, Where where, int64_t size) {
    const TensorView v = number_tensor(o, where);
    check_numbers(v, where, size);
    return note(v, where);
  }
  void* write_numbers(py::handle o, Where where, int64_t size) {
    const TensorView v = number_tensor(o, where);
    check_numbers(v, where, size);
    return note_written(v, where);
  }
  const void* read_int64(py::handle o, Where where, int64_t size) {
    if (reader().is_tensor(o.ptr()) && dtype_text(o) != "torch.int64")
      throw py::type_error(where.str() + " must be int64, not " + dtype_text(o));
    const TensorView v = tensor(o, where);
    check_numbers(v, where, size);
    read_.push_back({v.data, size * 8, where});
    return v.data;
  }

  // Memory to work in, float64 whatever the others are; None for none.
  Lent workspace(py::handle o) {
    if (o.is_none()) return {};
    const TensorView v = tensor(o, {"workspace"});
    if (v.dtype != DType::f64)
      throw py::type_error("workspace must be float64, not " + std::string(name_of(v.dtype)));
    check_numbers(v, {"workspace"}, v.numel);
    const Lent lent{static_cast<double*>(v.data), v.numel};
    written_.add(lent.memory, lent.size * size_of(DType::f64), {"workspace"});
    return lent;
  }
  // The tensor that was lent before, and must be where it was.
  void workspace(py::handle o, const Lent& lent) {
    const Lent now = workspace(o);
    if (now.memory != lent.memory || now.size != lent.size)
      throw py::value_error("workspace has moved since it was lent: call set_workspace() again");
  }

  // [rows, columns] with any distance between the rows, read alone.
  struct MatrixView {
    const void* data;
    int64_t rows, columns, stride;
  };
  MatrixView matrix(py::handle o, Where where) {
    const TensorView v = number_tensor(o, where);
    if (v.ndim != 2 || v.numel == 0) refuse(v, where, "a matrix that is not empty");
    const int64_t rows = v.shape[0], columns = v.shape[1];
    const int64_t stride = v.strides && rows > 1 ? v.strides[0] : columns;
    if ((v.strides && columns > 1 && v.strides[1] != 1) || stride < columns)
      refuse(v, where, "a matrix whose rows are contiguous");
    read_.push_back({v.data, ((rows - 1) * stride + columns) * size_of(dtype_), where});
    return {v.data, rows, columns, stride};
  }

  // To be called once all is read and nothing is left to convert. Throws when a tensor has changed
  // meanwhile, or what is written shares memory with anything else.
  void check_memory() {
    seen_.look_again();
    written_.seal();
    for (const Memory& m : read_) written_.check_outside(m.data, m.bytes, m.where);
  }

 private:
  struct Memory {
    const void* data;
    int64_t bytes;
    Where where;
  };

  const void* note(const TensorView& v, Where where) {
    read_.push_back({v.data, v.numel * size_of(dtype_), where});
    return v.data;
  }
  void* note_written(const TensorView& v, Where where) {
    written_.add(v.data, v.numel * size_of(dtype_), where);
    return v.data;
  }

  [[noreturn]] static void refuse(const TensorView& v, Where where, const std::string& what) {
    throw py::value_error(where.str() + " must be " + what + "; it is " + describe(v));
  }
  static std::string dtype_text(py::handle o) { return std::string(py::str(o.attr("dtype"))); }
  static bool is_dense(const TensorView& v) {
    int64_t row_major = 1;
    bool dense = true;
    for (int32_t d = v.ndim - 1; v.numel && d >= 0 && dense; row_major *= v.shape[d--])
      dense = !v.strides || v.shape[d] == 1 || v.strides[d] == row_major;
    return dense;
  }
  static void check_numbers(const TensorView& v, Where where, int64_t size) {
    if (v.numel != size || !is_dense(v))
      refuse(v, where, std::to_string(size) + " contiguous numbers");
  }
  static void check_shape(const TensorView& v, Where where, Shape shape) {
    const auto text = [](const int64_t* sizes, size_t n) {
      std::string s = "[";
      for (size_t i = 0; i < n; ++i) s += (i ? ", " : "") + std::to_string(sizes[i]);
      return s + "]";
    };
    if (!std::equal(shape.begin(), shape.end(), v.shape, v.shape + v.ndim))
      throw py::value_error(where.str() + " must have the shape " +
                            text(shape.begin(), shape.size()) + ", not " +
                            text(v.shape, size_t(v.ndim)));
    if (!is_dense(v)) throw py::value_error(where.str() + " has gaps; call .contiguous() first");
  }

  // Python is asked first: a view does not outlive what a subclass may do then.
  TensorView tensor(py::handle o, Where where) {
    if (reader().is_tensor(o.ptr())) reader().refuse_neg(o.ptr(), where);
    const TensorView v = reader().read(o.ptr(), where);
    if (v.device_type != device_type_ || (device_id_ >= 0 && v.device_id != device_id_))
      throw py::value_error(where.str() + " is on another device than this call: " + describe(v));
    device_id_ = v.device_id;
    seen_.add(o, v, where);
    return v;
  }
  TensorView number_tensor(py::handle o, Where where) {
    const TensorView v = tensor(o, where);
    if (v.dtype != DType::f32 && v.dtype != DType::f64)
      throw py::type_error(where.str() + " must be float32 or float64, not " + dtype_text(o));
    if (dtype_ != DType::other && v.dtype != dtype_)
      throw py::value_error(where.str() + " must be " + name_of(dtype_) + " as the others; it is " +
                            describe(v));
    dtype_ = v.dtype;
    return v;
  }

  int32_t device_type_, device_id_ = -1;
  DType dtype_;
  std::vector<Memory> read_;
  Spans written_;
  Seen seen_;
};

// body(R(), arrays) with R the tensor's type.
template <class Body>
void with_float(int32_t device_type, const py::object& tensor, const char* name, const Body& body) {
  const DType dtype = reader().read(tensor.ptr(), {name}).dtype;
  if (dtype == DType::f32)
    body(float(), Arrays(device_type, dtype));
  else if (dtype == DType::f64)
    body(double(), Arrays(device_type, dtype));
  else
    throw py::type_error(std::string(name) + " must be float32 or float64, not " + name_of(dtype));
}

}  // namespace unstuck
