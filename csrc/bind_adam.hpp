// Adam's entry points and argument checks, for the CPU, CUDA and emulated modules alike.
#pragma once
#include <pybind11/pybind11.h>

#include "adam_step.hpp"
#include "bind_plan.hpp"

namespace unstuck {

// The fields of one group's tuple, in order; unstuck.ops.adam.Group is the Python side.
enum AdamField {
  kAdamLr,
  kAdamBeta1,
  kAdamBeta2,
  kAdamEps,
  kAdamWeightDecay,
  kAdamDecoupled,
  kAdamMaximize,
  kAdamFields
};
// The fields of unstuck.ops.adam.Tracking.
enum TrackingField {
  kTrackNormWindow,
  kTrackNormThreshold,
  kTrackLossWindow,
  kTrackLossThreshold,
  kTrackPatience,
  kTrackRelative,
  kTrackFields
};

inline AdamGroupStep adam_group(StepArguments& arguments, const py::object& tuple, size_t index) {
  static const char* const names[kAdamFields] = {"lr",           "beta1",     "beta2",   "eps",
                                                 "weight_decay", "decoupled", "maximize"};
  check_fields(tuple, {"groups", index}, kAdamFields);
  const auto value = [&](AdamField f) { return py::handle(PyTuple_GET_ITEM(tuple.ptr(), f)); };
  const auto where = [&](AdamField f) { return Where{"groups", index, names[f]}; };
  AdamGroupStep s{};
  s.lr = arguments.scalar(value(kAdamLr), where(kAdamLr), &s.group.lr);
  if (s.group.lr < 0)
    throw py::value_error(where(kAdamLr).str() + " must be at least 0, not " +
                          shown(value(kAdamLr)));
  s.group.beta1 = beta(value(kAdamBeta1), where(kAdamBeta1));
  s.group.beta2 = beta(value(kAdamBeta2), where(kAdamBeta2));
  s.group.eps = non_negative(value(kAdamEps), where(kAdamEps));
  const double weight_decay = non_negative(value(kAdamWeightDecay), where(kAdamWeightDecay));
  const bool decoupled = flag(value(kAdamDecoupled), where(kAdamDecoupled));
  s.group.decay = decoupled ? weight_decay : 0;
  s.group.l2 = decoupled ? 0 : weight_decay;
  s.group.maximize = flag(value(kAdamMaximize), where(kAdamMaximize));
  return s;
}

inline StagnationConfig stagnation_config(const py::object& tuple) {
  static const char* const names[kTrackFields] = {"norm_window",    "norm_threshold", "loss_window",
                                                  "loss_threshold", "patience",       "relative"};
  check_fields(tuple, {"tracking"}, kTrackFields);
  const auto value = [&](TrackingField f) { return py::handle(PyTuple_GET_ITEM(tuple.ptr(), f)); };
  const auto where = [&](TrackingField f) { return Where{"tracking", Where::kWhole, names[f]}; };
  constexpr int64_t kMost = 1 << 20;
  const auto count = [&](TrackingField f, int64_t least) {
    return int32_t(integer(value(f), where(f), least, kMost));
  };
  StagnationConfig c{};
  c.norm_window = count(kTrackNormWindow, 2);
  c.loss_window = count(kTrackLossWindow, 4);
  c.patience = count(kTrackPatience, 1);
  c.norm_threshold = non_negative(value(kTrackNormThreshold), where(kTrackNormThreshold));
  c.loss_threshold = number(value(kTrackLossThreshold), where(kTrackLossThreshold));
  c.relative = flag(value(kTrackRelative), where(kTrackRelative));
  return c;
}

// A Backend has: kDeviceType; `AdamWorkspace`, made from the tensors once a plan;
// adam(step, workspace, where). `where` is the number of threads on the CPU, the stream on CUDA.
template <class Backend>
class AdamPlan : public StepPlan<AdamTensor, typename Backend::AdamWorkspace> {
  using Workspace = typename Backend::AdamWorkspace;
  using Base = StepPlan<AdamTensor, Workspace>;
  using Base::table_;
  using Base::tensors_;

 public:
  AdamPlan(const py::object& params, const py::object& exp_avgs, const py::object& exp_avg_sqs,
           const py::object& steps, const py::object& groups)
      : Base(Backend::kDeviceType) {
    table_.add("params", params);
    table_.add("exp_avgs", exp_avgs);
    table_.add("exp_avg_sqs", exp_avg_sqs);
    table_.add_scalars("steps", steps);
    this->add_rows(groups, [&](AdamTensor& t, size_t i) {
      t.m = table_.cell(1, i);
      t.v = table_.cell(2, i);
    });
  }

  void watch(const py::object& param_groups, const py::object& state) {
    this->watch_states(param_groups, state, {"exp_avg", "exp_avg_sq", "step"});
  }

  void step(const py::object& groups, const py::object& stats, const py::object& tracking,
            const py::object& finish, const py::object& grad_scale, const py::object& found_inf,
            const py::object& where) {
    std::vector<AdamGroupStep> parsed;
    AdamStep step{};
    this->template make_step<StepArguments>([&](StepArguments& arguments) {
      parsed = this->template read_groups<AdamGroupStep>(
          groups,
          [&](const py::object& tuple, size_t i) { return adam_group(arguments, tuple, i); });
      if (!stats.is_none()) {
        step.config = stagnation_config(tracking);
        step.stats = arguments.vector_f64(stats, {"stats"}, stagnation_size(step.config));
      }
      step.tensors = tensors_.data();
      step.tensor_count = tensors_.size();
      step.groups = parsed.data();
      step.group_count = parsed.size();
      step.loss_scale = arguments.optional_f32(grad_scale, {"grad_scale"});
      step.found_inf = arguments.optional_f32(found_inf, {"found_inf"});
      step.finish = flag(finish, {"finish"});
      const auto place = uintptr_t(integer(where, {"where"}, 0, INT64_MAX));
      return [&step, place](Workspace& workspace) { Backend::adam(step, workspace, place); };
    });
  }
};

template <class Backend>
void bind_adam(py::module_& m) {
  using Plan = AdamPlan<Backend>;
  py::class_<Plan> plan(m, "AdamPlan", py::module_local(),
                        "The tensors of an Adam step, checked once and watched between steps.");
  plan.def(py::init<const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&>(),
           py::arg("params"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("steps"),
           py::arg("groups"))
      .def("step", &Plan::step, py::arg("groups"), py::arg("stats"), py::arg("tracking"),
           py::arg("finish"), py::arg("grad_scale"), py::arg("found_inf"), py::arg("where"),
           "One step; `where` is threads or the stream.");
  bind_plan<Plan>(plan);
  m.def(
      "stagnation_header", [] { return int(kStagnationHeader); },
      "Numbers before the windows of a statistics vector.");
}

}  // namespace unstuck
