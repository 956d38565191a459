// Reads the group tuples of a blend step.
#pragma once
#include "bind_step.hpp"
#include "blend_step.hpp"

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

class BlendArguments : public StepArguments {
 public:
  using StepArguments::StepArguments;
  static constexpr int kMaxHidden = 4096;

  BlendGroupStep group(const py::object& object, size_t index) {
    check_fields(object, {"groups", index}, kGroupFields);
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
};

}  // namespace unstuck
