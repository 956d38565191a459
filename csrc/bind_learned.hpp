// The entry points of learned rules' steps and their argument checks, for the CPU, CUDA and
// emulated modules alike.
#pragma once
#include <pybind11/pybind11.h>

#include "bind_arrays.hpp"
#include "bind_plan.hpp"
#include "learned_step.hpp"
#include "lstm_step.hpp"

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

inline learned::Net read_net(const py::object& hidden, const py::object& control) {
  return {int32_t(integer(hidden, {"hidden"}, 1, learned::kMostHidden)),
          int32_t(integer(control, {"control"}, 1, learned::kMostControl))};
}

inline void read_traits(const py::object& row, size_t index, double* traits) {
  check_fields(row, {"traits", index}, learned::kTraits);
  for (int k = 0; k < learned::kTraits; ++k)
    traits[k] = number(PyTuple_GET_ITEM(row.ptr(), k), {"traits", index});
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

// One for each group that a tensor belongs to.
template <class Tensor>
std::vector<LearnedGroup> learned_groups(StepArguments& arguments, const py::object& groups,
                                         const std::vector<Tensor>& tensors) {
  const py::sequence tuples = sequence(groups, "groups");
  std::vector<LearnedGroup> parsed;
  for (size_t i = 0; i < tuples.size(); ++i)
    parsed.push_back(learned_group(arguments, py::object(tuples[i]), i));
  for (size_t i = 0; i < tensors.size(); ++i)
    if (size_t(tensors[i].group) >= parsed.size())
      throw py::value_error(Where{"params", i}.str() + " belongs to groups[" +
                            std::to_string(tensors[i].group) + "], but " +
                            std::to_string(parsed.size()) + " groups were given");
  return parsed;
}

// A Backend has: kDeviceType; `LearnedWorkspace`, made from the tensors once a plan;
// learned(step, workspace, where). `where` is the number of threads on the CPU, the stream on CUDA.
template <class Backend>
class LearnedPlan : public StepPlan<LearnedTensor, typename Backend::LearnedWorkspace> {
  using Workspace = typename Backend::LearnedWorkspace;
  using Base = StepPlan<LearnedTensor, Workspace>;
  using Base::table_;
  using Base::tensors_;

 public:
  LearnedPlan(const py::object& params, const py::object& exp_avgs, const py::object& slow,
              const py::object& exp_avg_sqs, const py::object& stats, const py::object& steps,
              const py::object& groups, const py::object& traits)
      : Base(Backend::kDeviceType) {
    table_.add("params", params);
    table_.add("exp_avgs", exp_avgs);
    table_.add("exp_avgs_slow", slow);
    table_.add("exp_avg_sqs", exp_avg_sqs);
    table_.add_vectors("stats", stats, learned::kStats, true);
    table_.add_scalars("steps", steps);
    table_.check_disjoint();
    const py::sequence group_list = table_.beside(groups, "groups");
    const py::sequence trait_list = table_.beside(traits, "traits");
    for (size_t i = 0; i < table_.rows(); ++i) {
      LearnedTensor t{};
      t.w = table_.cell(0, i);
      t.m = table_.cell(1, i);
      t.slow = table_.cell(2, i);
      t.v = table_.cell(3, i);
      t.stats = table_.cell(4, i);
      t.step = static_cast<float*>(table_.cell(5, i));
      t.numel = table_.numel(i);
      t.students = 1;
      t.dtype = table_.dtype(i);
      t.group = int32_t(integer(py::object(group_list[i]), {"groups", i}, 0, INT32_MAX));
      read_traits(py::object(trait_list[i]), i, t.traits);
      tensors_.push_back(t);
    }
    table_.check_unchanged();
    this->make_workspace();
  }

  void watch(const py::object& param_groups, const py::object& state) {
    this->watch_states(param_groups, state,
                       {"exp_avg", "exp_avg_slow", "exp_avg_sq", "stats", "step"});
  }

  void step(const py::object& groups, const py::object& thetas, const py::object& hidden,
            const py::object& control, const py::object& grad_scale, const py::object& found_inf,
            const py::object& where) {
    std::vector<LearnedGroup> parsed;
    LearnedStep step{};
    this->template make_step<StepArguments>([&](StepArguments& arguments) {
      parsed = learned_groups(arguments, groups, tensors_);
      step.net = read_net(hidden, control);
      step.thetas = arguments.numbers_f32(thetas, {"thetas"}, step.net.size());
      step.tensors = tensors_.data();
      step.tensor_count = tensors_.size();
      step.groups = parsed.data();
      step.group_count = parsed.size();
      step.loss_scale = arguments.optional_f32(grad_scale, {"grad_scale"});
      step.found_inf = arguments.optional_f32(found_inf, {"found_inf"});
      const auto place = uintptr_t(integer(where, {"where"}, 0, INT64_MAX));
      return [&step, place](Workspace& workspace) { Backend::learned(step, workspace, place); };
    });
  }
};

// As LearnedPlan, for the LSTM rule and float32 tensors; a Backend has `LstmWorkspace` and lstm().
template <class Backend>
class LstmPlan : public StepPlan<LstmTensor, typename Backend::LstmWorkspace> {
  using Workspace = typename Backend::LstmWorkspace;
  using Base = StepPlan<LstmTensor, Workspace>;
  using Base::table_;
  using Base::tensors_;

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
    table_.check_disjoint();
    const py::sequence group_list = table_.beside(groups, "groups");
    for (size_t i = 0; i < table_.rows(); ++i) {
      if (table_.dtype(i) != DType::f32)
        throw py::type_error(Where{"params", i}.str() + " must be float32, not " +
                             name_of(table_.dtype(i)));
      LstmTensor t{};
      t.w = table_.cell(0, i);
      t.m = table_.cell(1, i);
      t.v = table_.cell(2, i);
      t.hidden = table_.cell(3, i);
      t.cell = table_.cell(4, i);
      t.step = static_cast<float*>(table_.cell(5, i));
      t.numel = table_.numel(i);
      t.dtype = DType::f32;
      t.group = int32_t(integer(py::object(group_list[i]), {"groups", i}, 0, INT32_MAX));
      tensors_.push_back(t);
    }
    table_.check_unchanged();
    this->make_workspace();
  }

  void watch(const py::object& param_groups, const py::object& state) {
    this->watch_states(param_groups, state, {"exp_avg", "exp_avg_sq", "hidden", "cell", "step"});
  }

  void step(const py::object& groups, const py::object& theta, const py::object& features,
            const py::object& nominal, const py::object& scale, const py::object& grad_scale,
            const py::object& found_inf, const py::object& where) {
    std::vector<LearnedGroup> parsed;
    LstmStep step{};
    this->template make_step<StepArguments>([&](StepArguments& arguments) {
      parsed = learned_groups(arguments, groups, tensors_);
      step.net.features = lstm::Features(integer(features, {"features"}, 0, 2));
      step.net.hidden = int32_t(width_);
      step.net.nominal = flag(nominal, {"nominal"});
      step.net.scale = number(scale, {"scale"});
      step.theta = arguments.numbers_f32(theta, {"theta"}, step.net.size());
      step.tensors = tensors_.data();
      step.tensor_count = tensors_.size();
      step.groups = parsed.data();
      step.group_count = parsed.size();
      step.loss_scale = arguments.optional_f32(grad_scale, {"grad_scale"});
      step.found_inf = arguments.optional_f32(found_inf, {"found_inf"});
      const auto place = uintptr_t(integer(where, {"where"}, 0, INT64_MAX));
      return [&step, place](Workspace& workspace) { Backend::lstm(step, workspace, place); };
    });
  }

 private:
  int64_t width_;
};

// One step of K students of one shape, each by weights of its own, float32. `points` and `grads`
// are [K, P]; the lists have an entry a tensor: moments [K, size], stats [K, kStats], steps [K].
template <class Backend>
void learned_students(const py::object& points, const py::object& grads, const py::object& exp_avgs,
                      const py::object& slow, const py::object& exp_avg_sqs,
                      const py::object& stats, const py::object& steps, const py::object& sizes,
                      const py::object& traits, const py::object& thetas, const py::object& hidden,
                      const py::object& control, const py::object& lr, const py::object& num_steps,
                      const py::object& where) {
  Arrays arrays(Backend::kDeviceType, DType::f32);
  const py::sequence size_list = sequence(sizes, "sizes");
  const size_t rows = size_list.size();
  const auto column = [&](const py::object& list, const char* name) {
    const py::sequence s = sequence(list, name);
    if (s.size() != rows)
      throw py::value_error(std::string(name) + " has " + std::to_string(s.size()) +
                            " entries, but sizes has " + std::to_string(rows));
    return s;
  };
  const py::sequence lists[] = {column(exp_avgs, "exp_avgs"),
                                column(slow, "exp_avgs_slow"),
                                column(exp_avg_sqs, "exp_avg_sqs"),
                                column(stats, "stats"),
                                column(steps, "steps"),
                                column(traits, "traits")};
  static const char* const names[] = {"exp_avgs", "exp_avgs_slow", "exp_avg_sqs", "stats", "steps"};
  std::vector<int64_t> numel;
  int64_t dim = 0;
  for (size_t i = 0; i < rows; ++i) {
    numel.push_back(integer(py::object(size_list[i]), {"sizes", i}, 0, int64_t(1) << 48));
    dim += numel[i];
  }
  const TensorView seen = reader().read(points.ptr(), {"points"});
  const int64_t students = seen.ndim == 2 ? seen.shape[0] : 0;
  auto* const w = static_cast<float*>(arrays.write(points, {"points"}, {students, dim}));
  auto* const g = static_cast<const float*>(arrays.read(grads, {"grads"}, {students, dim}));
  std::vector<LearnedTensor> tensors;
  int64_t at = 0;
  for (size_t i = 0; i < rows; at += numel[i++]) {
    LearnedTensor t{};
    t.w = w + at;
    t.g = const_cast<float*>(g + at);
    const auto cell = [&](int c, int64_t width) {
      return arrays.write_numbers(py::object(lists[c][i]), {names[c], i}, students * width);
    };
    t.m = cell(0, numel[i]);
    t.slow = cell(1, numel[i]);
    t.v = cell(2, numel[i]);
    t.stats = cell(3, learned::kStats);
    t.step = static_cast<float*>(cell(4, 1));
    t.numel = t.state_stride = numel[i];
    t.students = students;
    t.stride = dim;
    t.dtype = DType::f32;
    read_traits(py::object(lists[5][i]), i, t.traits);
    tensors.push_back(t);
  }
  LearnedGroup group{};
  group.lr = non_negative(lr, {"lr"});
  group.num_steps = read_num_steps(num_steps, {"num_steps"});
  LearnedStep step{};
  step.net = read_net(hidden, control);
  step.thetas = static_cast<const float*>(
      arrays.read(thetas, {"thetas"}, {students, int64_t(step.net.size())}));
  step.tensors = tensors.data();
  step.tensor_count = tensors.size();
  step.groups = &group;
  step.group_count = 1;
  const auto place = uintptr_t(integer(where, {"where"}, 0, INT64_MAX));
  arrays.check_memory();
  py::gil_scoped_release release;
  typename Backend::LearnedWorkspace workspace(tensors);
  Backend::learned(step, workspace, place);
}

template <class Backend>
void bind_learned(py::module_& m) {
  using Plan = LearnedPlan<Backend>;
  py::class_<Plan> plan(m, "LearnedPlan", py::module_local(),
                        "The tensors of a learned rule's step, checked once and watched after.");
  plan.def(py::init<const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&>(),
           py::arg("params"), py::arg("exp_avgs"), py::arg("exp_avgs_slow"), py::arg("exp_avg_sqs"),
           py::arg("stats"), py::arg("steps"), py::arg("groups"), py::arg("traits"))
      .def("step", &Plan::step, py::arg("groups"), py::arg("thetas"), py::arg("hidden"),
           py::arg("control"), py::arg("grad_scale"), py::arg("found_inf"), py::arg("where"),
           "One step; `where` is threads or the stream.");
  bind_plan<Plan>(plan);
  using Lstm = LstmPlan<Backend>;
  py::class_<Lstm> lstm(m, "LstmPlan", py::module_local(),
                        "The tensors of an LSTM rule's step, checked once and watched after.");
  lstm.def(py::init<const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&>(),
           py::arg("params"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("hidden"),
           py::arg("cells"), py::arg("steps"), py::arg("groups"), py::arg("width"))
      .def("step", &Lstm::step, py::arg("groups"), py::arg("theta"), py::arg("features"),
           py::arg("nominal"), py::arg("scale"), py::arg("grad_scale"), py::arg("found_inf"),
           py::arg("where"), "One step; `where` is threads or the stream.");
  bind_plan<Lstm>(lstm);
  m.def("learned_students", &learned_students<Backend>, py::arg("points"), py::arg("grads"),
        py::arg("exp_avgs"), py::arg("exp_avgs_slow"), py::arg("exp_avg_sqs"), py::arg("stats"),
        py::arg("steps"), py::arg("sizes"), py::arg("traits"), py::arg("thetas"), py::arg("hidden"),
        py::arg("control"), py::arg("lr"), py::arg("num_steps"), py::arg("where"),
        "One step of several students, each by weights of its own.");
}

}  // namespace unstuck
