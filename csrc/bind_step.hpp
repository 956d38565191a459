// Reads what an optimizer step is given besides the plan's tensors: device scalars and vectors,
// checked for their values and for memory that they share with each other or with the plan.
#pragma once
#include <vector>

#include "core/arguments.hpp"
#include "core/scalar.hpp"
#include "core/seen.hpp"
#include "core/table.hpp"

namespace unstuck {

class StepArguments {
 public:
  StepArguments(int32_t device_type, const TensorTable& table)
      : device_type_(device_type), table_(table) {}

  // One float32 on the device, or None.
  const float* optional_f32(const py::object& o, Where where) {
    if (o.is_none()) return nullptr;
    const TensorView v = read(o, where);
    if (v.dtype != DType::f32 || v.numel != 1)
      throw py::value_error(where.str() + " must be one float32; it is " + describe(v));
    read_.push_back({v.data, 4, where});
    return static_cast<const float*>(v.data);
  }

  // To be called once all is read and nothing is left to convert. Throws when a tensor has changed
  // meanwhile, or something that is written shares memory with anything else of this step.
  template <class Tensor>
  void check_memory(const std::vector<Tensor>& tensors) {
    seen_.look_again();
    written_.seal();
    for (const Memory& m : read_) {
      table_.memory().check_outside(m.data, m.bytes, m.where);
      written_.check_outside(m.data, m.bytes, m.where);
    }
    for (size_t i = 0; i < tensors.size(); ++i)
      written_.check_outside(tensors[i].g, tensors[i].numel * size_of(tensors[i].dtype),
                             {"grads", i});
  }

  // Numbers without gaps that the step reads.
  const float* numbers_f32(py::handle o, Where where, int64_t size) {
    const TensorView v = read(o, where);
    int64_t numel = 1;
    bool gaps = false;
    for (int32_t d = v.ndim - 1; d >= 0; numel *= v.shape[d--])
      gaps |= v.strides && v.shape[d] != 1 && v.strides[d] != numel;
    if (v.dtype != DType::f32 || numel != size || gaps)
      throw py::value_error(where.str() + " must be " + std::to_string(size) +
                            " contiguous float32 numbers; it is " + describe(v));
    read_.push_back({v.data, size * 4, where});
    return static_cast<const float*>(v.data);
  }

  // Memory that the step writes.
  double* vector_f64(py::handle o, Where where, int64_t size) {
    const TensorView v = read(o, where);
    if (v.dtype != DType::f64 || v.ndim != 1 || v.numel != size ||
        (v.strides && v.numel > 1 && v.strides[0] != 1))
      throw py::value_error(where.str() + " must be a contiguous float64 vector of " +
                            std::to_string(size) + " numbers; it is " + describe(v));
    table_.memory().check_outside(v.data, size * 8, where);
    written_.add(v.data, size * 8, where);
    return static_cast<double*>(v.data);
  }

  // A number, or a tensor of one number on the device.
  Scalar scalar(py::handle o, Where where, double* value) {
    if (!reader().is_tensor(o.ptr())) {
      *value = number(o, where);
      return {};
    }
    const TensorView v = read(o, where);
    if ((v.dtype != DType::f32 && v.dtype != DType::f64) || v.numel != 1)
      throw py::value_error(where.str() + " must be a number or one float32 or float64; it is " +
                            describe(v));
    read_.push_back({v.data, size_of(v.dtype), where});
    return {v.data, v.dtype == DType::f64};
  }

 private:
  struct Memory {
    const void* data;
    int64_t bytes;
    Where where;
  };

  TensorView read(py::handle o, Where where) {
    const TensorView v = reader().read(o.ptr(), where);
    if (v.device_type != device_type_ || (table_.rows() && v.device_id != table_.device_id()))
      throw py::value_error(where.str() + " must be on the device of the parameters, not on " +
                            std::string(py::str(o.attr("device"))));
    seen_.add(o, v, where);
    reader().refuse_neg(o.ptr(), where);
    return v;
  }

  int32_t device_type_;
  const TensorTable& table_;
  Spans written_;             // besides the table
  std::vector<Memory> read_;  // device scalars
  Seen seen_;
};

}  // namespace unstuck
