// What the plans of all optimizer steps share: a table of tensors that is checked once, a watch
// over the optimizer that they came from, and the gradients of the step that comes next.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "core/table.hpp"
#include "core/watch.hpp"

namespace unstuck {

// `Tensor` is one row as the kernels see it; its gradient is the member `g`.
template <class Tensor>
class StepPlan {
 public:
  // Whether the plan still describes the optimizer; reads the gradients on the way.
  bool ready(const py::object& param_groups, const py::object& state) {
    std::vector<py::object> taken;
    taken.swap(gradients_);  // let go on every way out
    if (!watch_ || !PyList_Check(param_groups.ptr()) || !PyDict_Check(state.ptr())) return false;
    if (!watch_->state_holds(state.ptr()) || !watch_->gradients(param_groups.ptr(), taken) ||
        taken.size() != tensors_.size() || !table_.unchanged())
      return false;
    for (size_t i = 0; i < taken.size(); ++i)
      if (!table_.read_gradient(i, taken[i].ptr(), &tensors_[i].g, false)) return false;
    gradients_ = std::move(taken);
    return true;
  }

  // Takes these gradients, or throws and says which of them does not fit.
  void set_gradients(const py::object& grads) {
    const py::sequence list = table_.beside(grads, "grads");
    std::vector<py::object> taken;
    gradients_.swap(taken);  // let go on every way out
    taken.clear();
    for (size_t i = 0; i < tensors_.size(); ++i) {
      taken.push_back(list[i]);
      table_.read_gradient(i, taken.back().ptr(), &tensors_[i].g, true);
    }
    gradients_ = std::move(taken);
  }

  size_t size() const { return tensors_.size(); }

 protected:
  explicit StepPlan(int32_t device_type) : table_(device_type) {}

  // Remembers the optimizer; `keys` are the state's entries behind the columns after the first.
  void watch_states(const py::object& param_groups, const py::object& state,
                    const std::vector<const char*>& keys) {
    watch_ = std::make_unique<Watch>(param_groups, state, keys, table_);
  }

  // Hands over the gradients of this step; none is kept alive between steps.
  std::vector<py::object> take_gradients() {
    std::vector<py::object> gradients;
    gradients.swap(gradients_);
    if (gradients.size() != tensors_.size())
      throw py::value_error("no gradients: call ready() or set_gradients() before every step");
    return gradients;
  }

  TensorTable table_;
  std::vector<Tensor> tensors_;

 private:
  std::vector<py::object> gradients_;
  std::unique_ptr<Watch> watch_;
};

}  // namespace unstuck
