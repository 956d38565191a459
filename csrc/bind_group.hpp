// Reads what a step is given besides the plan's tensors: the group tuples and the device scalars,
// checked for their values and for memory that they share with each other or with the plan.
#pragma once
#include <vector>

#include "blend_step.hpp"
#include "core/arguments.hpp"
#include "core/table.hpp"

namespace unstuck {

// The fields of one group's tuple, in order; unstuck.ops.blend.Group is the Python side.
enum GroupField {
  kFieldLr,
  kFieldSgdLrRatio,
  kFieldBeta1,
  kFieldBeta2,
  kFieldEps,
  kFieldWeightDecay,
  kFieldDecoupled,
  kFieldMomentum,
  kFieldDampening,
  kFieldNesterov,
  kFieldMaximize,
  kFieldAlpha,
  kFieldGate,
  kFieldSums,
  kFieldHidden,
  kFieldUnits,
  kFieldLearn,
  kFieldNormalize,
  kFieldMetaLr,
  kFieldTotalSteps,
  kGroupFields
};
inline Where group_field(size_t index, GroupField field) {
  static const char* const names[kGroupFields] = {
      "lr",       "sgd_lr_ratio", "beta1",    "beta2",     "eps",     "weight_decay", "decoupled",
      "momentum", "dampening",    "nesterov", "maximize",  "alpha",   "gate",         "sums",
      "hidden",   "units",        "learn",    "normalize", "meta_lr", "total_steps"};
  return {"groups", index, names[field]};
}

class StepArguments {
 public:
  StepArguments(int32_t device_type, const TensorTable& table)
      : device_type_(device_type), table_(table) {}

  BlendGroupStep group(const py::object& object, size_t index) {
    if (!PyTuple_Check(object.ptr()))
      throw py::type_error(Where{"groups", index}.str() + " must be a tuple, not " + shown(object));
    if (PyTuple_GET_SIZE(object.ptr()) != kGroupFields)
      throw py::value_error(Where{"groups", index}.str() + " must have " +
                            std::to_string(int(kGroupFields)) + " fields, not " +
                            std::to_string(PyTuple_GET_SIZE(object.ptr())));
    const auto value = [&](GroupField f) { return py::handle(PyTuple_GET_ITEM(object.ptr(), f)); };
    const auto where = [&](GroupField f) { return group_field(index, f); };
    const auto positive = [&](GroupField f) { return non_negative(value(f), where(f)); };
    const auto yes = [&](GroupField f) { return flag(value(f), where(f)); };

    BlendGroupStep s{};
    BlendGroup& g = s.group;
    s.lr = scalar(value(kFieldLr), where(kFieldLr), &g.rates.lr);
    if (g.rates.lr < 0)
      throw py::value_error(where(kFieldLr).str() + " must be at least 0, not " +
                            shown(value(kFieldLr)));
    g.sgd_lr_ratio = positive(kFieldSgdLrRatio);
    if (!std::isfinite(g.rates.lr * g.sgd_lr_ratio))
      throw py::value_error(where(kFieldSgdLrRatio).str() +
                            " times lr must be finite, but they are " +
                            shown(value(kFieldSgdLrRatio)) + " and " + shown(value(kFieldLr)));
    g.rates.beta1 = beta(value(kFieldBeta1), where(kFieldBeta1));
    g.rates.beta2 = beta(value(kFieldBeta2), where(kFieldBeta2));
    g.rates.eps = positive(kFieldEps);
    const double weight_decay = positive(kFieldWeightDecay);
    const bool decoupled = yes(kFieldDecoupled);
    g.rates.decay = decoupled ? weight_decay : 0;
    g.l2 = decoupled ? 0 : weight_decay;
    g.momentum = positive(kFieldMomentum);
    g.dampening = number(value(kFieldDampening), where(kFieldDampening));
    g.nesterov = yes(kFieldNesterov);
    g.maximize = yes(kFieldMaximize);
    if (value(kFieldGate).is_none()) {
      s.alpha = scalar(value(kFieldAlpha), where(kFieldAlpha), &g.alpha);
      if (!(g.alpha >= 0 && g.alpha <= 1))
        throw py::value_error(where(kFieldAlpha).str() + " must be in [0, 1], not " +
                              shown(value(kFieldAlpha)));
      if (!value(kFieldSums).is_none())
        throw py::value_error(where(kFieldSums).str() + " are for a gate, but the group has none");
      return s;
    }
    GateConfig& c = s.gate_config;
    c.hidden = int(integer(value(kFieldHidden), where(kFieldHidden), 0, kMaxHidden));
    c.units = int(integer(value(kFieldUnits), where(kFieldUnits), 1, INT32_MAX));
    c.learn = yes(kFieldLearn);
    c.normalize = yes(kFieldNormalize);
    c.lr = positive(kFieldMetaLr);
    c.total_steps = positive(kFieldTotalSteps);
    s.gate = vector_f64(value(kFieldGate), where(kFieldGate), gate_size(c.hidden, c.units));
    s.sums = vector_f64(value(kFieldSums), where(kFieldSums), int64_t(c.units) * kBlendSums);
    return s;
  }

  // One float32 on the device, or None.
  const float* optional_f32(const py::object& o, Where where) {
    if (o.is_none()) return nullptr;
    const TensorView v = read(o, where);
    if (v.dtype != DType::f32 || v.numel != 1)
      throw py::value_error(where.str() + " must be one float32; it is " + describe(v));
    read_.push_back({v.data, 4, where});
    return static_cast<const float*>(v.data);
  }

  // To be called once all is read. Throws when something that is written shares memory with
  // anything else of this step.
  void check_memory(const std::vector<BlendTensor>& tensors) {
    written_.seal();
    for (const Memory& m : read_) {
      table_.memory().check_outside(m.data, m.bytes, m.where);
      written_.check_outside(m.data, m.bytes, m.where);
    }
    for (size_t i = 0; i < tensors.size(); ++i)
      written_.check_outside(tensors[i].g, tensors[i].numel * size_of(tensors[i].dtype),
                             {"grads", i});
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

  static constexpr int kMaxHidden = 4096;

 private:
  struct Memory {
    const void* data;
    int64_t bytes;
    Where where;
  };

  TensorView read(py::handle o, Where where) const {
    const TensorView v = reader().read(o.ptr(), where);
    if (v.device_type != device_type_ || (table_.rows() && v.device_id != table_.device_id()))
      throw py::value_error(where.str() + " must be on the device of the parameters, not on " +
                            std::string(py::str(o.attr("device"))));
    reader().refuse_neg(o.ptr(), where);
    return v;
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

  int32_t device_type_;
  const TensorTable& table_;
  Spans written_;             // gates and sums
  std::vector<Memory> read_;  // device scalars
};

}  // namespace unstuck
