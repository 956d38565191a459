// Whether a plan built from a torch.optim.Optimizer still describes it: the same parameters in the
// same groups, the same ones with a gradient, the same state dictionaries holding the same tensors.
#pragma once
#include <utility>
#include <vector>

#include "core/reader.hpp"

namespace unstuck {

class Watch {
 public:
  // `keys` names the state entries that make up the plan's columns 1, 2, ... in order.
  Watch(py::list param_groups, py::dict state, const std::vector<const char*>& keys)
      : groups_(std::move(param_groups)), state_(std::move(state)) {
    params_name_ = py::str("params");
    for (const char* key : keys) keys_.push_back(py::reinterpret_steal<py::object>(
        PyUnicode_InternFromString(key)));
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(state_.ptr(), &at, &key, &value);)
      entries_.push_back({py::reinterpret_borrow<py::object>(key),
                          py::reinterpret_borrow<py::object>(value)});
    for (py::handle group : groups_) {
      py::list params = group[params_name_];
      sizes_.push_back(params.size());
      for (py::handle p : params) {
        const bool active = !p.attr("grad").is_none();
        params_.push_back({py::reinterpret_borrow<py::object>(p), active});
        if (!active) continue;
        PyObject* inner = PyDict_GetItemWithError(state_.ptr(), p.ptr());
        if (!inner || !PyDict_Check(inner))
          throw py::value_error("a parameter with a gradient has no state");
        std::vector<PyObject*> cells;
        for (auto& k : keys_) cells.push_back(PyDict_GetItemWithError(inner, k.ptr()));
        states_.push_back({inner, std::move(cells)});  // kept alive by entries_ and the table
      }
    }
  }

  // Whether the state is as it was. Compares identities alone; memory is the table's affair.
  bool state_holds(PyObject* state) const {
    if (state != state_.ptr() || size_t(PyDict_GET_SIZE(state)) != entries_.size()) return false;
    PyObject *key, *value;
    size_t i = 0;
    for (Py_ssize_t at = 0; PyDict_Next(state, &at, &key, &value); ++i)
      if (key != entries_[i].first.ptr() || value != entries_[i].second.ptr()) return false;
    for (const auto& s : states_)
      for (size_t k = 0; k < keys_.size(); ++k)
        if (PyDict_GetItemWithError(s.inner, keys_[k].ptr()) != s.cells[k]) return false;
    return true;
  }

  // Collects the gradients of the parameters that had one. False when a group's parameters differ
  // from those that were seen, or another set of them has gradients.
  bool gradients(PyObject* groups, std::vector<py::object>& out) const {
    out.clear();
    if (groups != groups_.ptr() || size_t(PyList_GET_SIZE(groups)) != sizes_.size()) return false;
    size_t next = 0;
    for (size_t g = 0; g < sizes_.size(); ++g) {
      PyObject* group = PyList_GET_ITEM(groups, Py_ssize_t(g));
      PyObject* params = PyDict_Check(group) ? PyDict_GetItemWithError(group, params_name_.ptr())
                                             : nullptr;
      if (!params || !PyList_Check(params) || size_t(PyList_GET_SIZE(params)) != sizes_[g])
        return false;
      for (size_t i = 0; i < sizes_[g]; ++i, ++next) {
        PyObject* p = PyList_GET_ITEM(params, Py_ssize_t(i));
        if (p != params_[next].object.ptr()) return false;
        PyObject* grad = PyObject_GetAttr(p, reader().grad_name());
        if (!grad) throw py::error_already_set();
        auto owned = py::reinterpret_steal<py::object>(grad);
        if (owned.is_none() == params_[next].active) return false;
        if (params_[next].active) out.push_back(std::move(owned));
      }
    }
    return true;
  }

 private:
  struct Param {
    py::object object;
    bool active;
  };
  struct State {
    PyObject* inner;
    std::vector<PyObject*> cells;
  };
  py::list groups_;
  py::dict state_;
  py::object params_name_;
  std::vector<py::object> keys_;
  std::vector<std::pair<py::object, py::object>> entries_;
  std::vector<size_t> sizes_;
  std::vector<Param> params_;
  std::vector<State> states_;
};

}  // namespace unstuck
