// Whether a plan built from a torch.optim.Optimizer still describes it: the same parameters in the
// same groups, the same ones with a gradient, the same state dictionaries holding the same tensors.
#pragma once
#include <utility>
#include <vector>

#include "core/table.hpp"

namespace unstuck {

class Watch {
 public:
  // `table` holds, in order, the parameters that have a gradient (column 0) and the entries `keys`
  // of their states (columns 1, 2, ...); where a cell is empty, the state may hold anything.
  Watch(const py::object& param_groups, const py::object& state,
        const std::vector<const char*>& keys, const TensorTable& table)
      : params_name_(py::str("params")) {
    if (!PyList_Check(param_groups.ptr()))
      throw py::type_error("param_groups must be a list of dicts, not " + shown(param_groups));
    if (!PyDict_Check(state.ptr()))
      throw py::type_error("state must be a dict, not " + shown(state));
    groups_ = param_groups;
    state_ = state;
    for (const char* key : keys) keys_.push_back(py::str(key));
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(state_.ptr(), &at, &key, &value);)
      entries_.push_back(
          {py::reinterpret_borrow<py::object>(key), py::reinterpret_borrow<py::object>(value)});
    for (Py_ssize_t g = 0; g < PyList_GET_SIZE(groups_.ptr()); ++g) add_group(size_t(g), table);
    if (states_.size() != table.rows())
      throw py::value_error("param_groups has " + std::to_string(states_.size()) +
                            " parameters with a gradient, but the plan has " +
                            std::to_string(table.rows()));
  }

  // Whether the state is as it was. Compares identities alone; memory is the table's affair.
  bool state_holds(PyObject* state) const {
    if (state != state_.ptr() || size_t(PyDict_GET_SIZE(state)) != entries_.size()) return false;
    PyObject *key, *value;
    size_t i = 0;
    for (Py_ssize_t at = 0; PyDict_Next(state, &at, &key, &value); ++i)
      if (key != entries_[i].first.ptr() || value != entries_[i].second.ptr()) return false;
    for (const State& s : states_)
      if (!s.holds()) return false;
    return true;
  }

  // Collects the gradients of the parameters that had one. False when a group's parameters differ
  // from those that were seen, or another set of them has gradients.
  bool gradients(PyObject* groups, std::vector<py::object>& out) const {
    out.clear();
    if (groups != groups_.ptr() || size_t(PyList_GET_SIZE(groups)) != sizes_.size()) return false;
    size_t next = 0;
    for (size_t g = 0; g < sizes_.size(); ++g) {
      PyObject* params = params_of(g);
      if (!params || size_t(PyList_GET_SIZE(params)) != sizes_[g]) return false;
      for (size_t i = 0; i < sizes_[g]; ++i, ++next) {
        PyObject* p = PyList_GET_ITEM(params, Py_ssize_t(i));
        if (p != params_[next].object.ptr()) return false;
        py::object grad = gradient_of(p);
        if (grad.is_none() == params_[next].active) return false;
        if (params_[next].active) out.push_back(std::move(grad));
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
    PyObject* inner;                                        // kept alive by entries_
    std::vector<std::pair<py::object, PyObject*>> entries;  // null: whatever, not the plan's affair

    // A walk through entries that stand as they stood takes half the time of looking each up.
    bool holds() const {
      PyObject *key, *value;
      size_t i = 0;
      for (Py_ssize_t at = 0; i < entries.size() && PyDict_Next(inner, &at, &key, &value); ++i) {
        if (key != entries[i].first.ptr()) break;
        if (entries[i].second && value != entries[i].second) return false;
      }
      for (; i < entries.size(); ++i)
        if (entries[i].second && item(inner, entries[i].first) != entries[i].second) return false;
      return true;
    }
  };

  static PyObject* item(PyObject* dict, const py::object& key) {
    return PyDict_GetItemWithError(dict, key.ptr());
  }
  static py::object gradient_of(PyObject* p) {
    if (!reader().is_plain(p)) ++python_calls();
    PyObject* grad = PyObject_GetAttr(p, reader().grad_name());
    if (!grad) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(grad);
  }
  // The list of a group's parameters, or null.
  PyObject* params_of(size_t g) const {
    PyObject* group = PyList_GET_ITEM(groups_.ptr(), Py_ssize_t(g));
    PyObject* params = PyDict_Check(group) ? item(group, params_name_) : nullptr;
    return params && PyList_Check(params) ? params : nullptr;
  }

  void add_group(size_t g, const TensorTable& table) {
    PyObject* params = params_of(g);
    if (!params)
      throw py::type_error(Where{"param_groups", g}.str() +
                           " must be a dict with a list under \"params\"");
    sizes_.push_back(size_t(PyList_GET_SIZE(params)));
    for (size_t i = 0; i < sizes_.back(); ++i) {
      const auto p = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params, Py_ssize_t(i)));
      if (!reader().is_tensor(p.ptr()))
        throw py::type_error(Where{"param_groups", g, "params"}.str() + "[" + std::to_string(i) +
                             "] must be a torch.Tensor, not " + shown(p));
      const bool active = !gradient_of(p.ptr()).is_none();
      params_.push_back({p, active});
      if (active) add_state(p.ptr(), table);
    }
  }

  void add_state(PyObject* p, const TensorTable& table) {
    const size_t row = states_.size();
    const Where where{"params", row};
    if (row >= table.rows() || table.object(0, row) != p)
      throw py::value_error(
          "the parameters with a gradient in param_groups are not those of the "
          "plan, from " +
          where.str() + " on");
    PyObject* inner = PyDict_GetItemWithError(state_.ptr(), p);
    if (!inner || !PyDict_Check(inner))
      throw py::value_error("state has no dict for " + where.str());
    State known{inner, {}};
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(inner, &at, &key, &value);)
      known.entries.emplace_back(py::reinterpret_borrow<py::object>(key), nullptr);
    for (size_t k = 0; k < keys_.size(); ++k) {
      PyObject* planned = table.object(k + 1, row);
      if (!planned) continue;
      if (item(inner, keys_[k]) != planned)
        throw py::value_error("state of " + where.str() + " holds another tensor as " +
                              shown(keys_[k]) + " than the plan");
      for (auto& entry : known.entries)
        if (PyObject_RichCompareBool(entry.first.ptr(), keys_[k].ptr(), Py_EQ) == 1)
          entry.second = planned;  // kept alive by the table
    }
    states_.push_back(std::move(known));
  }

  py::object groups_, state_, params_name_;
  std::vector<py::object> keys_;
  std::vector<std::pair<py::object, py::object>> entries_;
  std::vector<size_t> sizes_;
  std::vector<Param> params_;
  std::vector<State> states_;
};

}  // namespace unstuck
