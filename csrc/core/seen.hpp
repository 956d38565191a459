// The tensors that a call has read, for a second look at them once all its arguments are converted:
// a conversion may run Python code, and that may resize, move or free any of them.
#pragma once
#include <algorithm>
#include <vector>

#include "core/reader.hpp"

namespace unstuck {

class Seen {
 public:
  void add(py::handle tensor, const TensorView& v, Where where) {
    tensors_.push_back(
        {py::reinterpret_borrow<py::object>(tensor), v.data, v.bits, sizes(v), where});
  }

  // To be called last. Throws when one of them is not what it was. No Python code runs after the
  // subclasses, the first to be looked at: a tensor whose own code answers has no memory to read.
  void look_again() const {
    for (const bool plain : {false, true})
      for (const Tensor& t : tensors_)
        if (reader().is_plain(t.object.ptr()) == plain) look_again(t);
  }

 private:
  struct Tensor {
    py::object object;  // kept: a list that it was read from may have let go of it
    void* data;
    int32_t bits;
    std::vector<int64_t> sizes;
    Where where;
  };

  static std::vector<int64_t> sizes(const TensorView& v) {
    std::vector<int64_t> all(v.shape, v.shape + v.ndim);
    if (v.strides) all.insert(all.end(), v.strides, v.strides + v.ndim);
    return all;
  }
  static void look_again(const Tensor& t) {
    const TensorView v = reader().read(t.object.ptr(), t.where);
    if (v.data != t.data || v.bits != t.bits || sizes(v) != t.sizes)
      throw py::value_error(t.where.str() + " was changed while the other arguments were read");
  }

  std::vector<Tensor> tensors_;
};

}  // namespace unstuck
