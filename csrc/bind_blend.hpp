// The blend's entry points and argument checks, for the CPU, CUDA and emulated modules alike.
#pragma once
#include <pybind11/pybind11.h>

#include <cmath>
#include <memory>

#include "core/blend_step.hpp"
#include "core/table.hpp"
#include "core/watch.hpp"

namespace unstuck {

// The fields of one group's tuple, in order; unstuck.ops.blend.Group is the Python side.
enum GroupField {
  kFieldLr, kFieldSgdLrRatio, kFieldBeta1, kFieldBeta2, kFieldEps, kFieldWeightDecay,
  kFieldDecoupled, kFieldMomentum, kFieldDampening, kFieldNesterov, kFieldMaximize, kFieldAlpha,
  kFieldGate, kFieldSums, kFieldHidden, kFieldUnits, kFieldLearn, kFieldNormalize, kFieldMetaLr,
  kFieldTotalSteps, kGroupFields
};

// A Backend has: kDeviceType; `Workspace` (made from the tensors once a plan);
// run(step, workspace, where) and hypergradient(step, workspace, where); finish(group, where) and
// meta_step(group, where). `where` is the number of threads on the CPU, the stream on CUDA.
template <class Backend>
class BlendPlan {
 public:
  BlendPlan(const py::sequence& params, const py::sequence& exp_avgs,
            const py::sequence& exp_avg_sqs, const py::sequence& momentum_buffers,
            const py::sequence& directions, const py::sequence& steps, const py::sequence& groups,
            const py::sequence& units, const py::sequence& had_previous)
      : table_(Backend::kDeviceType) {
    table_.add("params", params);
    table_.add("exp_avgs", exp_avgs);
    table_.add("exp_avg_sqs", exp_avg_sqs);
    table_.add("momentum_buffers", momentum_buffers, true);
    table_.add("directions", directions, true);
    table_.add_scalars("steps", steps);
    table_.check_disjoint();
    const size_t n = table_.rows();
    if (groups.size() != n || units.size() != n || had_previous.size() != n)
      throw py::value_error("groups, units and had_previous need one entry for each of the " +
                            std::to_string(n) + " params");
    for (size_t i = 0; i < n; ++i) {
      BlendTensor t{};
      t.w = table_.cell(0, i);
      t.m = table_.cell(1, i);
      t.v = table_.cell(2, i);
      t.buffer = table_.cell(3, i);
      t.direction = table_.cell(4, i);
      t.step = static_cast<float*>(table_.cell(5, i));
      t.numel = table_.numel(i);
      t.dtype = table_.dtype(i);
      t.group = groups[i].cast<int32_t>();
      t.unit = units[i].cast<int32_t>();
      t.had_previous = had_previous[i].cast<bool>();
      // An empty tensor has no memory, but its mode must still be told apart.
      if (t.group < 0 || t.unit < 0) throw py::value_error("groups and units count from 0");
      tensors_.push_back(t);
    }
    workspace_ = std::make_unique<typename Backend::Workspace>(tensors_);
  }

  void watch(const py::list& param_groups, const py::dict& state) {
    watch_ = std::make_unique<Watch>(
        param_groups, state,
        std::vector<const char*>{"exp_avg", "exp_avg_sq", "momentum_buffer", "sgd_direction",
                                 "step"});
  }

  // Whether the plan still describes the optimizer; reads the gradients on the way.
  bool ready(const py::object& param_groups, const py::object& state) {
    if (!watch_ || !PyList_Check(param_groups.ptr()) || !PyDict_Check(state.ptr())) return false;
    if (!watch_->state_holds(state.ptr()) ||
        !watch_->gradients(param_groups.ptr(), gradients_) ||
        gradients_.size() != tensors_.size() || !table_.unchanged())
      return false;
    for (size_t i = 0; i < gradients_.size(); ++i)
      if (!table_.read_gradient(i, gradients_[i].ptr(), &tensors_[i].g, false)) return false;
    return true;
  }

  // Takes these gradients, or throws and says which of them does not fit.
  void set_gradients(const py::sequence& gradients) {
    if (gradients.size() != tensors_.size())
      throw py::value_error("grads has " + std::to_string(gradients.size()) +
                            " tensors, but params has " + std::to_string(tensors_.size()));
    std::vector<py::object> taken;
    std::vector<void*> data(tensors_.size());
    for (size_t i = 0; i < tensors_.size(); ++i) {
      taken.push_back(gradients[i]);
      table_.read_gradient(i, taken.back().ptr(), &data[i], true);
    }
    for (size_t i = 0; i < data.size(); ++i) tensors_[i].g = data[i];
    gradients_ = std::move(taken);
  }

  void step(const py::sequence& groups, const py::object& grad_scale, const py::object& found_inf,
            bool finish, uintptr_t where) {
    run(groups, grad_scale, found_inf, finish, where, false);
    for (auto& t : tensors_) t.had_previous = true;
  }
  void hypergradient(const py::sequence& groups, bool finish, uintptr_t where) {
    run(groups, py::none(), py::none(), finish, where, true);
  }

  size_t size() const { return tensors_.size(); }
  static int launches(const BlendPlan& plan) { return plan.workspace_->launches(); }

 private:
  void run(const py::sequence& group_tuples, const py::object& grad_scale,
           const py::object& found_inf, bool finish, uintptr_t where, bool hyper) {
    if (gradients_.size() != tensors_.size())
      throw py::value_error("no gradients: call ready() or set_gradients() before every step");
    std::vector<BlendGroupStep> groups;
    for (size_t i = 0; i < group_tuples.size(); ++i)
      groups.push_back(parse_group(group_tuples[i], i));
    for (const BlendTensor& t : tensors_) {
      if (size_t(t.group) >= groups.size())
        throw py::value_error("a tensor belongs to group " + std::to_string(t.group) + ", but " +
                              std::to_string(groups.size()) + " were given");
      const BlendGroupStep& g = groups[size_t(t.group)];
      if (g.gate && t.unit >= g.gate_config.units)
        throw py::value_error("a tensor belongs to unit " + std::to_string(t.unit) +
                              " of a gate of " + std::to_string(g.gate_config.units));
      if (hyper && !g.gate) throw py::value_error("a hypergradient needs a gate in every group");
    }
    BlendStep step{tensors_.data(), tensors_.size(), groups.data(), groups.size(),
                   scalar_f32(grad_scale, "grad_scale"), scalar_f32(found_inf, "found_inf"),
                   finish};
    {
      py::gil_scoped_release release;
      if (hyper)
        Backend::hypergradient(step, *workspace_, where);
      else
        Backend::run(step, *workspace_, where);
    }
    gradients_.clear();  // nothing is kept alive between steps
  }

  TensorView on_device(const py::object& o, const char* name) const {
    const TensorView v = reader().read(o.ptr(), {name, 0});
    if (v.device_type != Backend::kDeviceType ||
        (table_.rows() && v.device_id != table_.device_id()))
      throw py::value_error(std::string(name) + " must be on the device of the parameters, not on " +
                            std::string(py::str(o.attr("device"))));
    return v;
  }
  const float* scalar_f32(const py::object& o, const char* name) const {
    if (o.is_none()) return nullptr;
    const TensorView v = on_device(o, name);
    if (v.dtype != DType::f32 || v.numel != 1)
      throw py::value_error(std::string(name) + " must be one float32");
    return static_cast<const float*>(v.data);
  }
  // A number, or a tensor of one number on the device.
  Scalar scalar(const py::object& o, const char* name, double* number) const {
    if (PyFloat_Check(o.ptr()) || PyLong_Check(o.ptr())) {
      *number = o.cast<double>();
      return {};
    }
    const TensorView v = on_device(o, name);
    if ((v.dtype != DType::f32 && v.dtype != DType::f64) || v.numel != 1)
      throw py::value_error(std::string(name) + " must be a number or one float32 or float64");
    return {v.data, v.dtype == DType::f64};
  }
  double* vector_f64(const py::object& o, const char* name, int64_t size) const {
    const TensorView v = on_device(o, name);
    if (v.dtype != DType::f64 || v.numel != size || (v.ndim == 1 && v.strides && v.numel > 1 &&
                                                      v.strides[0] != 1) || v.ndim != 1)
      throw py::value_error(std::string(name) + " must be a contiguous float64 vector of " +
                            std::to_string(size) + " numbers");
    table_.check_outside(name, v);
    return static_cast<double*>(v.data);
  }
  static double positive(const py::handle& x, const char* name) {
    const double value = x.cast<double>();
    if (!(value >= 0) || std::isinf(value))
      throw py::value_error(std::string(name) + " must be finite and at least 0, not " +
                            std::to_string(value));
    return value;
  }
  static double beta(const py::handle& x, const char* name) {
    const double value = x.cast<double>();
    if (!(value >= 0 && value < 1))
      throw py::value_error(std::string(name) + " must be in [0, 1), not " + std::to_string(value));
    return value;
  }

  BlendGroupStep parse_group(const py::object& object, size_t index) const {
    if (!PyTuple_Check(object.ptr()) || PyTuple_GET_SIZE(object.ptr()) != kGroupFields)
      throw py::type_error("groups[" + std::to_string(index) + "] must be a tuple of " +
                           std::to_string(int(kGroupFields)) + " fields");
    const auto t = py::reinterpret_borrow<py::tuple>(object);
    BlendGroupStep s{};
    BlendGroup& g = s.group;
    s.lr = scalar(t[kFieldLr], "lr", &g.rates.lr);
    g.sgd_lr_ratio = positive(t[kFieldSgdLrRatio], "sgd_lr_ratio");
    g.rates.beta1 = beta(t[kFieldBeta1], "beta1");
    g.rates.beta2 = beta(t[kFieldBeta2], "beta2");
    g.rates.eps = positive(t[kFieldEps], "eps");
    const double weight_decay = positive(t[kFieldWeightDecay], "weight_decay");
    const bool decoupled = t[kFieldDecoupled].cast<bool>();
    g.rates.decay = decoupled ? weight_decay : 0;
    g.l2 = decoupled ? 0 : weight_decay;
    g.momentum = positive(t[kFieldMomentum], "momentum");
    g.dampening = t[kFieldDampening].cast<double>();
    g.nesterov = t[kFieldNesterov].cast<bool>();
    g.maximize = t[kFieldMaximize].cast<bool>();
    if (!t[kFieldGate].is_none()) {
      GateConfig& c = s.gate_config;
      c.hidden = t[kFieldHidden].cast<int>();
      c.units = t[kFieldUnits].cast<int>();
      if (c.hidden < 0 || c.hidden > 4096 || c.units < 1)
        throw py::value_error("a gate has 0 to 4096 hidden and at least 1 unit, not " +
                              std::to_string(c.hidden) + " and " + std::to_string(c.units));
      c.learn = t[kFieldLearn].cast<bool>();
      c.normalize = t[kFieldNormalize].cast<bool>();
      c.lr = positive(t[kFieldMetaLr], "gate lr");
      c.total_steps = positive(t[kFieldTotalSteps], "total_steps");
      s.gate = vector_f64(t[kFieldGate], "gate", gate_size(c.hidden, c.units));
      s.sums = vector_f64(t[kFieldSums], "sums", int64_t(c.units) * kBlendSums);
      const double *a = s.gate, *b = s.sums;
      if (a < b + int64_t(c.units) * kBlendSums && b < a + gate_size(c.hidden, c.units))
        throw py::value_error("gate and sums share memory");
    } else {
      s.alpha = scalar(t[kFieldAlpha], "alpha", &g.alpha);
      if (!s.alpha.data && !(g.alpha >= 0 && g.alpha <= 1))
        throw py::value_error("alpha must be in [0, 1], not " + std::to_string(g.alpha));
    }
    return s;
  }

  TensorTable table_;
  std::vector<BlendTensor> tensors_;
  std::vector<py::object> gradients_;
  std::unique_ptr<Watch> watch_;
  std::unique_ptr<typename Backend::Workspace> workspace_;
};

template <class Backend>
void bind_blend(py::module_& m) {
  using Plan = BlendPlan<Backend>;
  py::class_<Plan>(m, "BlendPlan",
                   "The tensors of a blend step, checked once and watched between steps.")
      .def(py::init<const py::sequence&, const py::sequence&, const py::sequence&,
                    const py::sequence&, const py::sequence&, const py::sequence&,
                    const py::sequence&, const py::sequence&, const py::sequence&>(),
           py::arg("params"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"),
           py::arg("momentum_buffers"), py::arg("directions"), py::arg("steps"), py::arg("groups"),
           py::arg("units"), py::arg("had_previous"))
      .def("watch", &Plan::watch, py::arg("param_groups"), py::arg("state"),
           "Remember the optimizer that the tensors came from, for ready().")
      .def("ready", &Plan::ready, py::arg("param_groups"), py::arg("state"),
           "Whether the plan still describes the optimizer; reads the gradients.")
      .def("set_gradients", &Plan::set_gradients, py::arg("grads"),
           "Take these gradients; ValueError names the one that does not fit.")
      .def("step", &Plan::step, py::arg("groups"), py::arg("grad_scale"), py::arg("found_inf"),
           py::arg("finish"), py::arg("where"), "One step; `where` is threads or the stream.")
      .def("hypergradient", &Plan::hypergradient, py::arg("groups"), py::arg("finish"),
           py::arg("where"), "Sums of another batch's gradients against the last update.")
      .def("launches", &Plan::launches, "Parallel regions or kernel launches of the last step.")
      .def("__len__", &Plan::size);
  m.def(
      "gate_layout",
      [] {
        py::dict d;
        d["header"] = int(kHeader);
        d["features"] = int(kFeatures);
        d["unit"] = int(kUnit);
        d["sums"] = int(kBlendSums);
        return d;
      },
      "Sizes of the gate's vector; unstuck.ops.gate holds the same layout.");
  m.def("gate_size", &gate_size, py::arg("hidden"), py::arg("units"));
}

}  // namespace unstuck
