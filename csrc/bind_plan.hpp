// What the plans of all optimizer steps share: a table of tensors that is checked once, a watch
// over the optimizer that they came from, the gradients of the step that comes next, and memory to
// work in.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "bind_step.hpp"
#include "core/busy.hpp"
#include "core/table.hpp"
#include "core/watch.hpp"

namespace unstuck {

// `Tensor` is one row as the kernels see it; its gradient is the member `g`. A Workspace is made
// from the rows; it has size(), set(memory) and launches().
template <class Tensor, class Workspace>
class StepPlan {
 public:
  // Whether the plan still describes the optimizer; reads the gradients on the way.
  bool ready(const py::object& param_groups, const py::object& state) {
    const Busy::Hold hold(busy_);
    const uint64_t calls = python_calls();
    std::vector<py::object> taken;
    taken.swap(gradients_);  // let go on every way out
    if (!watch_ || !PyList_Check(param_groups.ptr()) || !PyDict_Check(state.ptr())) return false;
    if (!watch_->state_holds(state.ptr()) || !watch_->gradients(param_groups.ptr(), taken) ||
        taken.size() != tensors_.size() || !table_.unchanged())
      return false;
    for (size_t i = 0; i < taken.size(); ++i)
      if (!table_.read_gradient(i, taken[i].ptr(), &tensors_[i].g, false)) return false;
    gradients_ = std::move(taken);
    calls_ = calls;
    checked_ = true;
    return true;
  }

  // Takes these gradients, or throws and says which of them does not fit.
  void set_gradients(const py::object& grads) {
    const Busy::Hold hold(busy_);
    const py::sequence list = table_.beside(grads, "grads");
    std::vector<py::object> taken;
    gradients_.swap(taken);  // let go on every way out
    taken.clear();
    checked_ = false;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      taken.push_back(list[i]);
      table_.read_gradient(i, taken.back().ptr(), &tensors_[i].g, true);
    }
    table_.check_unchanged();
    gradients_ = std::move(taken);
  }

  size_t size() const { return tensors_.size(); }
  int launches() const { return workspace_->launches(); }

  // Scratch memory on the device: zeroed float64, as many numbers as workspace_size() says.
  int64_t workspace_size() const { return workspace_->size(); }
  void set_workspace(const py::object& o) {
    const Busy::Hold hold(busy_);
    memory_ = StepArguments(device_type_, table_).vector_f64(o, {"workspace"}, workspace_->size());
    lent_ = o;
    workspace_->set(memory_);
  }

 protected:
  explicit StepPlan(int32_t device_type) : table_(device_type), device_type_(device_type) {}

  // Once the table has its columns, parameters first and step counts last: makes the rows, and the
  // workspace. fill(tensor, row) sets what only this step's tensors have.
  template <class Fill>
  void add_rows(const py::object& groups, const Fill& fill) {
    table_.check_disjoint();
    const py::sequence group_list = table_.beside(groups, "groups");
    for (size_t i = 0; i < table_.rows(); ++i) {
      Tensor t{};
      t.w = table_.cell(0, i);
      t.step = static_cast<float*>(table_.cell(table_.columns() - 1, i));
      t.numel = table_.numel(i);
      t.dtype = table_.dtype(i);
      t.group = int32_t(integer(py::object(group_list[i]), {"groups", i}, 0, INT32_MAX));
      fill(t, i);
      tensors_.push_back(t);
    }
    table_.check_unchanged();
    workspace_ = std::make_unique<Workspace>(tensors_);
  }

  // The groups of a step, each by read(tuple, index); that of every tensor must be there.
  template <class Group, class Read>
  std::vector<Group> read_groups(const py::object& groups, const Read& read) const {
    std::vector<Group> parsed;
    const py::sequence tuples = sequence(groups, "groups");
    for (size_t i = 0; i < tuples.size(); ++i) parsed.push_back(read(py::object(tuples[i]), i));
    for (size_t i = 0; i < tensors_.size(); ++i)
      if (size_t(tensors_[i].group) >= parsed.size())
        throw py::value_error(Where{"params", i}.str() + " belongs to groups[" +
                              std::to_string(tensors_[i].group) + "], but " +
                              std::to_string(parsed.size()) + " groups were given");
    return parsed;
  }

  // Remembers the optimizer; `keys` are the state's entries behind the columns after the first.
  void watch_states(const py::object& param_groups, const py::object& state,
                    const std::vector<const char*>& keys) {
    const Busy::Hold hold(busy_);
    watch_ = std::make_unique<Watch>(param_groups, state, keys, table_);
  }

  // One step. parse(arguments) reads what else it is given and returns what runs it; none of the
  // gradients is kept alive afterwards.
  template <class Arguments, class Parse>
  void make_step(const Parse& parse) {
    const Busy::Hold hold(busy_);
    std::vector<py::object> gradients;
    gradients.swap(gradients_);
    require_gradients(gradients);
    if (workspace_->size() && !lent_)
      throw py::value_error("no workspace: call set_workspace() once");
    Arguments arguments(device_type_, table_);
    if (lent_ && arguments.vector_f64(lent_, {"workspace"}, workspace_->size()) != memory_)
      throw py::value_error("workspace has moved since it was lent: call set_workspace() again");
    const auto run = parse(arguments);
    arguments.check_memory(tensors_);
    look_again(gradients);
    py::gil_scoped_release release;
    run(*workspace_);
  }

  // body() between ready() and the step, with gradients that are where they were read.
  template <class Body>
  auto with_gradients(const Body& body) {
    const Busy::Hold hold(busy_);
    require_gradients(gradients_);
    look_again(gradients_);
    return body();
  }

  TensorTable table_;
  std::vector<Tensor> tensors_;

 private:
  void require_gradients(const std::vector<py::object>& gradients) const {
    if (gradients.size() != tensors_.size())
      throw py::value_error("no gradients: call ready() or set_gradients() before every step");
  }
  // Throws when a tensor is not what it was when it was read. Not asked a second time where ready()
  // has looked and no argument's conversion can have run Python code since.
  void look_again(const std::vector<py::object>& gradients) const {
    if (checked_ && calls_ == python_calls() && !reader().has_modes()) return;
    table_.check_unchanged();
    for (size_t i = 0; i < gradients.size(); ++i)
      table_.check_gradient(i, gradients[i].ptr(), tensors_[i].g);
  }

  int32_t device_type_;
  std::vector<py::object> gradients_;
  bool checked_ = false;  // by ready(), and
  uint64_t calls_ = 0;    // python_calls() when it began
  std::unique_ptr<Watch> watch_;
  std::unique_ptr<Workspace> workspace_;
  py::object lent_;  // the workspace's memory
  double* memory_ = nullptr;
  Busy busy_;
};

// The methods that all plans have.
template <class Plan, class Class>
void bind_plan(Class& c) {
  c.def("watch", &Plan::watch, py::arg("param_groups"), py::arg("state"),
        "Remember the optimizer that the tensors came from, for ready().")
      .def("ready", &Plan::ready, py::arg("param_groups"), py::arg("state"),
           "Whether the plan still describes the optimizer; reads the gradients.")
      .def("set_gradients", &Plan::set_gradients, py::arg("grads"),
           "Take these gradients; ValueError names the one that does not fit.")
      .def("workspace_size", &Plan::workspace_size, "float64 numbers that set_workspace() needs.")
      .def("set_workspace", &Plan::set_workspace, py::arg("workspace"),
           "Lend zeroed scratch memory on the device, once.")
      .def("launches", &Plan::launches, "Parallel regions or kernel launches that a step makes.")
      .def("__len__", &Plan::size);
}

}  // namespace unstuck
