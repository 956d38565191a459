// What the plans of all learned rules' steps share: groups, and how a step is read.
#pragma once
#include <pybind11/pybind11.h>

#include "bind_plan.hpp"
#include "learned_step.hpp"

namespace unstuck {

// The fields of one group's tuple, in order; unstuck.ops.learned.Group is the Python side.
enum LearnedField {
  kLearnedLr,
  kLearnedWeightDecay,
  kLearnedNumSteps,
  kLearnedMaximize,
  kLearnedFields
};

inline double read_num_steps(py::handle o, Where where) {
  if (o.is_none()) return 0;
  const double value = number(o, where);
  if (!(value > 0))
    throw py::value_error(where.str() + " must be above 0, or None, not " + shown(o));
  return value;
}

inline LearnedGroup learned_group(StepArguments& arguments, const py::object& tuple, size_t index) {
  static const char* const names[kLearnedFields] = {"lr", "weight_decay", "num_steps", "maximize"};
  check_fields(tuple, {"groups", index}, kLearnedFields);
  const auto value = [&](LearnedField f) { return py::handle(PyTuple_GET_ITEM(tuple.ptr(), f)); };
  const auto where = [&](LearnedField f) { return Where{"groups", index, names[f]}; };
  LearnedGroup g{};
  g.lr_on_device = arguments.scalar(value(kLearnedLr), where(kLearnedLr), &g.lr);
  if (g.lr < 0)
    throw py::value_error(where(kLearnedLr).str() + " must be at least 0, not " +
                          shown(value(kLearnedLr)));
  g.weight_decay = non_negative(value(kLearnedWeightDecay), where(kLearnedWeightDecay));
  g.num_steps = read_num_steps(value(kLearnedNumSteps), where(kLearnedNumSteps));
  g.maximize = flag(value(kLearnedMaximize), where(kLearnedMaximize));
  return g;
}

// A plan of the rows of a `Step`, which is a RuleStep<Tensor>.
template <class Step, class Tensor, class Workspace>
class RulePlan : public StepPlan<Tensor, Workspace> {
 protected:
  using Base = StepPlan<Tensor, Workspace>;
  using Base::Base;
  using Base::tensors_;

  // read(step, arguments) reads the network; run(step, workspace, place) runs the kernel.
  template <class Read, class Run>
  void make_rule_step(const py::object& groups, const py::object& grad_scale,
                      const py::object& found_inf, const py::object& where, const Read& read,
                      const Run& run) {
    std::vector<LearnedGroup> parsed;
    Step step{};
    this->template make_step<StepArguments>([&](StepArguments& arguments) {
      parsed = this->template read_groups<LearnedGroup>(
          groups,
          [&](const py::object& tuple, size_t i) { return learned_group(arguments, tuple, i); });
      read(step, arguments);
      step.tensors = tensors_.data();
      step.tensor_count = tensors_.size();
      step.groups = parsed.data();
      step.group_count = parsed.size();
      step.loss_scale = arguments.optional_f32(grad_scale, {"grad_scale"});
      step.found_inf = arguments.optional_f32(found_inf, {"found_inf"});
      const auto place = uintptr_t(integer(where, {"where"}, 0, INT64_MAX));
      return [&step, &run, place](Workspace& workspace) { run(step, workspace, place); };
    });
  }
};

}  // namespace unstuck
