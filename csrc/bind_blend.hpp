// The blend's entry points and argument checks, for the CPU, CUDA and emulated modules alike.
#pragma once
#include <pybind11/pybind11.h>

#include "bind_group.hpp"
#include "bind_plan.hpp"

namespace unstuck {

// A Backend has: kDeviceType; `Workspace`, made from the tensors once a plan;
// run(step, workspace, where) and hypergradient(step, workspace, where). `where` is the number of
// threads on the CPU, the stream on CUDA.
template <class Backend>
class BlendPlan : public StepPlan<BlendTensor, typename Backend::Workspace> {
  using Workspace = typename Backend::Workspace;
  using Base = StepPlan<BlendTensor, Workspace>;
  using Base::table_;
  using Base::tensors_;

 public:
  BlendPlan(const py::object& params, const py::object& exp_avgs, const py::object& exp_avg_sqs,
            const py::object& momentum_buffers, const py::object& directions,
            const py::object& steps, const py::object& groups, const py::object& units,
            const py::object& had_previous)
      : Base(Backend::kDeviceType) {
    table_.add("params", params);
    table_.add("exp_avgs", exp_avgs);
    table_.add("exp_avg_sqs", exp_avg_sqs);
    table_.add("momentum_buffers", momentum_buffers, true);
    table_.add("directions", directions, true);
    table_.add_scalars("steps", steps);
    const py::sequence unit_list = table_.beside(units, "units"),
                       previous_list = table_.beside(had_previous, "had_previous");
    this->add_rows(groups, [&](BlendTensor& t, size_t i) {
      t.m = table_.cell(1, i);
      t.v = table_.cell(2, i);
      t.buffer = table_.cell(3, i);
      t.direction = table_.cell(4, i);
      t.has_buffer = table_.object(3, i) != nullptr;
      t.has_direction = table_.object(4, i) != nullptr;
      t.unit = int32_t(integer(py::object(unit_list[i]), {"units", i}, 0, INT32_MAX));
      t.had_previous = flag(py::object(previous_list[i]), {"had_previous", i});
    });
  }

  void watch(const py::object& param_groups, const py::object& state) {
    this->watch_states(param_groups, state,
                       {"exp_avg", "exp_avg_sq", "momentum_buffer", "sgd_direction", "step"});
  }

  void step(const py::object& groups, const py::object& grad_scale, const py::object& found_inf,
            const py::object& finish, const py::object& where) {
    run(groups, grad_scale, found_inf, finish, where, false);
    for (auto& t : tensors_) t.had_previous = true;
  }
  void hypergradient(const py::object& groups, const py::object& finish, const py::object& where) {
    run(groups, py::none(), py::none(), finish, where, true);
  }

 private:
  void run(const py::object& groups, const py::object& grad_scale, const py::object& found_inf,
           const py::object& finish, const py::object& where, bool hyper) {
    std::vector<BlendGroupStep> parsed;
    BlendStep step{};
    this->template make_step<BlendArguments>([&](BlendArguments& arguments) {
      parsed = this->template read_groups<BlendGroupStep>(
          groups, [&](const py::object& tuple, size_t i) { return arguments.group(tuple, i); });
      for (size_t i = 0; i < tensors_.size(); ++i) check_place(i, parsed, hyper);
      step = {tensors_.data(),
              tensors_.size(),
              parsed.data(),
              parsed.size(),
              arguments.optional_f32(grad_scale, {"grad_scale"}),
              arguments.optional_f32(found_inf, {"found_inf"}),
              flag(finish, {"finish"})};
      const auto place = uintptr_t(integer(where, {"where"}, 0, INT64_MAX));
      return [&step, place, hyper](Workspace& workspace) {
        hyper ? Backend::hypergradient(step, workspace, place)
              : Backend::run(step, workspace, place);
      };
    });
  }

  // Whether the unit of a tensor is there, and what a hypergradient needs.
  void check_place(size_t i, const std::vector<BlendGroupStep>& groups, bool hyper) const {
    const BlendTensor& t = tensors_[i];
    const BlendGroupStep& g = groups[size_t(t.group)];
    if (g.gate && t.unit >= g.gate_config.units)
      throw py::value_error(Where{"params", i}.str() + " belongs to unit " +
                            std::to_string(t.unit) + " of a gate of " +
                            std::to_string(g.gate_config.units) + " units");
    if (hyper && !g.gate)
      throw py::value_error(Where{"groups", size_t(t.group), "gate"}.str() +
                            " is None, but a hypergradient needs a gate in every group");
  }
};

template <class Backend>
void bind_blend(py::module_& m) {
  using Plan = BlendPlan<Backend>;
  py::class_<Plan> plan(m, "BlendPlan", py::module_local(),
                        "The tensors of a blend step, checked once and watched between steps.");
  plan.def(py::init<const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&>(),
           py::arg("params"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"),
           py::arg("momentum_buffers"), py::arg("directions"), py::arg("steps"), py::arg("groups"),
           py::arg("units"), py::arg("had_previous"))
      .def("step", &Plan::step, py::arg("groups"), py::arg("grad_scale"), py::arg("found_inf"),
           py::arg("finish"), py::arg("where"), "One step; `where` is threads or the stream.")
      .def("hypergradient", &Plan::hypergradient, py::arg("groups"), py::arg("finish"),
           py::arg("where"), "Sums of another batch's gradients against the last update.");
  bind_plan<Plan>(plan);
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
  m.def(
      "gate_size",
      [](const py::object& hidden, const py::object& units) {
        return gate_size(int(integer(hidden, {"hidden"}, 0, BlendArguments::kMaxHidden)),
                         integer(units, {"units"}, 0, INT32_MAX));
      },
      py::arg("hidden"), py::arg("units"), "The length of the gate's vector.");
}

}  // namespace unstuck
