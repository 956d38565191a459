// The entry points of the LSTM rule's step and its argument checks, for the CPU, CUDA and emulated
// modules alike.
#pragma once
#include "bind_rule.hpp"
#include "lstm_step.hpp"

namespace unstuck {

// float32 tensors. A Backend has: kDeviceType; `LstmWorkspace`, made from the tensors once a plan;
// lstm(step, workspace, where), `where` as for LearnedPlan.
template <class Backend>
class LstmPlan : public RulePlan<LstmStep, LstmTensor, typename Backend::LstmWorkspace> {
  using Workspace = typename Backend::LstmWorkspace;
  using Base = RulePlan<LstmStep, LstmTensor, Workspace>;
  using Base::table_;

 public:
  LstmPlan(const py::object& params, const py::object& exp_avgs, const py::object& exp_avg_sqs,
           const py::object& hidden, const py::object& cells, const py::object& steps,
           const py::object& groups, const py::object& width)
      : Base(Backend::kDeviceType), width_(integer(width, {"width"}, 1, lstm::kMostHidden)) {
    table_.add("params", params);
    table_.add("exp_avgs", exp_avgs);
    table_.add("exp_avg_sqs", exp_avg_sqs);
    table_.add_multiples("hidden", hidden, width_);
    table_.add_multiples("cells", cells, width_);
    table_.add_scalars("steps", steps);
    this->add_rows(groups, [&](LstmTensor& t, size_t i) {
      if (t.dtype != DType::f32)
        throw py::type_error(Where{"params", i}.str() + " must be float32, not " +
                             name_of(t.dtype));
      t.m = table_.cell(1, i);
      t.v = table_.cell(2, i);
      t.hidden = table_.cell(3, i);
      t.cell = table_.cell(4, i);
    });
  }

  void watch(const py::object& param_groups, const py::object& state) {
    this->watch_states(param_groups, state, {"exp_avg", "exp_avg_sq", "hidden", "cell", "step"});
  }

  void step(const py::object& groups, const py::object& theta, const py::object& features,
            const py::object& nominal, const py::object& scale, const py::object& grad_scale,
            const py::object& found_inf, const py::object& where) {
    this->make_rule_step(
        groups, grad_scale, found_inf, where,
        [&](LstmStep& step, StepArguments& arguments) {
          step.net.features =
              lstm::Features(integer(features, {"features"}, 0, int(lstm::Features::rich)));
          step.net.hidden = int32_t(width_);
          step.net.nominal = flag(nominal, {"nominal"});
          step.net.scale = number(scale, {"scale"});
          step.theta = arguments.numbers_f32(theta, {"theta"}, step.net.size());
        },
        [](const LstmStep& step, Workspace& workspace, uintptr_t place) {
          Backend::lstm(step, workspace, place);
        });
  }

 private:
  int64_t width_;
};

template <class Backend>
void bind_lstm(py::module_& m) {
  using Plan = LstmPlan<Backend>;
  py::class_<Plan> plan(m, "LstmPlan", py::module_local(),
                        "The tensors of an LSTM rule's step, checked once and watched after.");
  plan.def(py::init<const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&>(),
           py::arg("params"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("hidden"),
           py::arg("cells"), py::arg("steps"), py::arg("groups"), py::arg("width"))
      .def("step", &Plan::step, py::arg("groups"), py::arg("theta"), py::arg("features"),
           py::arg("nominal"), py::arg("scale"), py::arg("grad_scale"), py::arg("found_inf"),
           py::arg("where"), "One step; `where` is threads or the stream.");
  bind_plan<Plan>(plan);
}

}  // namespace unstuck
