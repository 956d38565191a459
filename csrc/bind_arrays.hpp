// Reads the tensors of one call: all of one dtype and on one device, checked for their shapes and
// for memory that is written and shared.
#pragma once
#include <string>
#include <vector>

#include "core/reader.hpp"
#include "core/spans.hpp"
#include "core/table.hpp"

namespace unstuck {

class Arrays {
 public:
  explicit Arrays(int32_t device_type) : device_type_(device_type) {}

  DType dtype() const { return dtype_; }

  // [rows, columns] with any distance between the rows, read alone.
  struct MatrixView {
    const void* data;
    int64_t rows, columns, stride;
  };
  MatrixView matrix(const py::object& o, const char* name) {
    const TensorView v = number_tensor(o, name);
    if (v.ndim != 2 || v.numel == 0) refuse(v, name, "a matrix that is not empty");
    const int64_t stride = v.strides && v.shape[0] > 1 ? v.strides[0] : v.shape[1];
    if ((v.strides && v.shape[1] > 1 && v.strides[1] != 1) || stride < v.shape[1])
      refuse(v, name, "a matrix whose rows are contiguous");
    const int64_t rows = v.shape[0], columns = v.shape[1];
    note(v.data, ((rows - 1) * stride + columns) * size_of(dtype_), name);
    return {v.data, rows, columns, stride};
  }

  const void* read(const py::object& o, const char* name, int64_t size) {
    const TensorView v = number_tensor(o, name);
    check_vector(v, name, size);
    note(v.data, size * size_of(dtype_), name);
    return v.data;
  }
  void* write(const py::object& o, const char* name, int64_t size) {
    const TensorView v = number_tensor(o, name);
    check_vector(v, name, size);
    written_.add(v.data, size * size_of(dtype_), {name});
    return v.data;
  }
  const void* read_int64(const py::object& o, const char* name, int64_t size) {
    const TensorView v = tensor(o, name);
    if (std::string(py::str(o.attr("dtype"))) != "torch.int64")
      throw py::type_error(std::string(name) + " must be int64, not " +
                           std::string(py::str(o.attr("dtype"))));
    check_vector(v, name, size);
    note(v.data, size * 8, name);
    return v.data;
  }
  // Elements of a vector, from its shape.
  int64_t length(const py::object& o, const char* name) const {
    return reader().read(o.ptr(), {name}).numel;
  }

  // To be called once all is read. Throws when what is written shares memory with anything else.
  void check_memory() {
    written_.seal();
    for (const Memory& m : read_) written_.check_outside(m.data, m.bytes, {m.name});
  }

 private:
  struct Memory {
    const void* data;
    int64_t bytes;
    const char* name;
  };

  void note(const void* data, int64_t bytes, const char* name) {
    read_.push_back({data, bytes, name});
  }
  [[noreturn]] static void refuse(const TensorView& v, const char* name, const std::string& what) {
    throw py::value_error(std::string(name) + " must be " + what + "; it is " + describe(v));
  }
  static void check_vector(const TensorView& v, const char* name, int64_t size) {
    int64_t row_major = 1;
    bool contiguous = v.numel == size;
    for (int32_t d = v.ndim - 1; d >= 0 && contiguous; row_major *= v.shape[d--])
      contiguous = !v.strides || v.shape[d] == 1 || v.strides[d] == row_major;
    if (!contiguous) refuse(v, name, std::to_string(size) + " contiguous numbers");
  }
  TensorView tensor(const py::object& o, const char* name) {
    const TensorView v = reader().read(o.ptr(), {name});
    if (v.device_type != device_type_ || (device_id_ >= 0 && v.device_id != device_id_))
      throw py::value_error(std::string(name) +
                            " is on another device than this call: " + describe(v));
    reader().refuse_neg(o.ptr(), {name});
    device_id_ = v.device_id;
    return v;
  }
  TensorView number_tensor(const py::object& o, const char* name) {
    const TensorView v = tensor(o, name);
    if (v.dtype != DType::f32 && v.dtype != DType::f64)
      throw py::type_error(std::string(name) + " must be float32 or float64, not " +
                           std::string(py::str(o.attr("dtype"))));
    if (dtype_ != DType::other && v.dtype != dtype_)
      throw py::value_error(std::string(name) + " must be " + name_of(dtype_) +
                            " as the others; it is " + describe(v));
    dtype_ = v.dtype;
    return v;
  }

  int32_t device_type_, device_id_ = -1;
  DType dtype_ = DType::other;
  std::vector<Memory> read_;
  Spans written_;
};

}  // namespace unstuck
