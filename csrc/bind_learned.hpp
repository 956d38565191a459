// The entry points of the MLP rule's step and its argument checks, for the CPU, CUDA and emulated
// modules alike.
#pragma once
#include <numeric>

#include "bind_arrays.hpp"
#include "bind_rule.hpp"

namespace unstuck {

inline learned::Net read_net(const py::object& hidden, const py::object& control) {
  return {int32_t(integer(hidden, {"hidden"}, 1, learned::kMostHidden)),
          int32_t(integer(control, {"control"}, 1, learned::kMostControl))};
}

inline void read_traits(const py::object& row, size_t index, double* traits) {
  check_fields(row, {"traits", index}, learned::kTraits);
  for (int k = 0; k < learned::kTraits; ++k)
    traits[k] = number(PyTuple_GET_ITEM(row.ptr(), k), {"traits", index});
}

// A Backend has: kDeviceType; `LearnedWorkspace`, made from the tensors once a plan;
// learned(step, workspace, where). `where` is the number of threads on the CPU, the stream on CUDA.
template <class Backend>
class LearnedPlan
    : public RulePlan<LearnedStep, LearnedTensor, typename Backend::LearnedWorkspace> {
  using Workspace = typename Backend::LearnedWorkspace;
  using Base = RulePlan<LearnedStep, LearnedTensor, Workspace>;

 public:
  LearnedPlan(const py::object& params, const py::object& exp_avgs, const py::object& slow,
              const py::object& exp_avg_sqs, const py::object& stats, const py::object& steps,
              const py::object& groups, const py::object& traits)
      : LearnedPlan(params, exp_avgs, slow, exp_avg_sqs, stats, steps, groups, traits, [] {}) {}

  void watch(const py::object& param_groups, const py::object& state) {
    this->watch_states(param_groups, state,
                       {"exp_avg", "exp_avg_slow", "exp_avg_sq", "stats", "step"});
  }

  void step(const py::object& groups, const py::object& thetas, const py::object& hidden,
            const py::object& control, const py::object& grad_scale, const py::object& found_inf,
            const py::object& where) {
    step_by(groups, thetas, hidden, control, grad_scale, found_inf, where, &Backend::learned);
  }

 protected:
  using Base::table_;
  // more() adds columns behind those that the step has.
  template <class More>
  LearnedPlan(const py::object& params, const py::object& exp_avgs, const py::object& slow,
              const py::object& exp_avg_sqs, const py::object& stats, const py::object& steps,
              const py::object& groups, const py::object& traits, const More& more)
      : Base(Backend::kDeviceType) {
    table_.add("params", params);
    table_.add("exp_avgs", exp_avgs);
    table_.add("exp_avgs_slow", slow);
    table_.add("exp_avg_sqs", exp_avg_sqs);
    table_.add_vectors("stats", stats, learned::kStats, true);
    more();
    table_.add_scalars("steps", steps);
    const py::sequence trait_list = table_.beside(traits, "traits");
    this->add_rows(groups, [&](LearnedTensor& t, size_t i) {
      t.m = table_.cell(1, i);
      t.slow = table_.cell(2, i);
      t.v = table_.cell(3, i);
      t.stats = table_.cell(4, i);
      t.students = 1;
      read_traits(py::object(trait_list[i]), i, t.traits);
    });
  }

  template <class Run>
  void step_by(const py::object& groups, const py::object& thetas, const py::object& hidden,
               const py::object& control, const py::object& grad_scale, const py::object& found_inf,
               const py::object& where, const Run& run) {
    this->make_rule_step(
        groups, grad_scale, found_inf, where,
        [&](LearnedStep& step, StepArguments& arguments) {
          step.net = read_net(hidden, control);
          step.thetas = arguments.numbers_f32(thetas, {"thetas"}, step.net.size());
        },
        run);
  }
};

// Elements of each parameter of one student. Their sum, and that times any number of students below
// kMostStudents, is a number of 64 bits.
constexpr int64_t kMostStudents = INT32_MAX;
inline std::vector<int64_t> read_sizes(const py::object& sizes) {
  constexpr int64_t kMost = int64_t(1) << 28;
  const py::sequence list = sequence(sizes, "sizes");
  std::vector<int64_t> numel;
  int64_t sum = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    numel.push_back(integer(py::object(list[i]), {"sizes", i}, 0, kMost));
    sum += numel.back();
    if (sum > kMost)
      throw py::value_error("a student must have at most " + std::to_string(kMost) +
                            " parameters; sizes[" + std::to_string(i) + "] makes it " +
                            std::to_string(sum));
  }
  return numel;
}

// float64 numbers of memory that learned_students() needs.
template <class Backend>
int64_t learned_students_workspace(const py::object& sizes, const py::object& students) {
  LearnedTensor t{};
  t.students = integer(students, {"students"}, 0, kMostStudents);
  std::vector<LearnedTensor> tensors;
  for (int64_t numel : read_sizes(sizes)) {
    t.numel = numel;
    tensors.push_back(t);
  }
  return typename Backend::LearnedWorkspace(tensors).size();
}

// One step of K students of one shape, each by weights of its own, float32. `points` and `grads`
// are [K, P]; the lists have an entry a tensor: moments [K, size], stats [K, kStats], steps [K].
template <class Backend>
void learned_students(const py::object& points, const py::object& grads, const py::object& exp_avgs,
                      const py::object& slow, const py::object& exp_avg_sqs,
                      const py::object& stats, const py::object& steps, const py::object& sizes,
                      const py::object& traits, const py::object& thetas, const py::object& hidden,
                      const py::object& control, const py::object& lr, const py::object& num_steps,
                      const py::object& where, const py::object& workspace) {
  Arrays arrays(Backend::kDeviceType, DType::f32);
  const std::vector<int64_t> numel = read_sizes(sizes);
  const size_t rows = numel.size();
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
  const int64_t dim = std::accumulate(numel.begin(), numel.end(), int64_t(0));
  const TensorView seen = reader().read(points.ptr(), {"points"});
  const int64_t students = seen.ndim == 2 ? seen.shape[0] : 0;
  if (students > kMostStudents)
    throw py::value_error("points must have at most " + std::to_string(kMostStudents) +
                          " rows, not " + std::to_string(students));
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
    t.numel = numel[i];
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
  const Lent lent = arrays.workspace(workspace);
  arrays.check_memory();
  typename Backend::LearnedWorkspace work(tensors);
  if (work.size() > lent.size)
    throw py::value_error("the workspace must have " + std::to_string(work.size()) +
                          " float64 numbers, not " + std::to_string(lent.size));
  work.set(lent.memory);
  py::gil_scoped_release release;
  Backend::learned(step, work, place);
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
  m.def("learned_students", &learned_students<Backend>, py::arg("points"), py::arg("grads"),
        py::arg("exp_avgs"), py::arg("exp_avgs_slow"), py::arg("exp_avg_sqs"), py::arg("stats"),
        py::arg("steps"), py::arg("sizes"), py::arg("traits"), py::arg("thetas"), py::arg("hidden"),
        py::arg("control"), py::arg("lr"), py::arg("num_steps"), py::arg("where"),
        py::arg("workspace") = py::none(),
        "One step of several students, each by weights of its own; CUDA wants a zeroed "
        "`workspace`.");
}

}  // namespace unstuck
