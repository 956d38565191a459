// The entry points of whitening, by itself and before a step of the MLP rule, and their argument
// checks. They are for the CPU alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "bind_learned.hpp"
#include "cpu/buffer.hpp"
#include "cpu/whitening.hpp"

namespace unstuck {

// When means look at gradients: at the first and every `every`-th after it, keeping the share
// `keep` of what they have seen. Roots are made of looks whose number is in `early` or a multiple
// of `renew`.
struct Schedule {
  double every, keep, renew;
  std::vector<double> early;

  bool renews(double looks) const {
    return std::fmod(looks, renew) == 0 ||
           std::find(early.begin(), early.end(), looks) != early.end();
  }
};

inline Schedule read_schedule(const py::object& tuple) {
  check_fields(tuple, {"schedule"}, 4);
  const auto field = [&](int f) {
    return py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(tuple.ptr(), f));
  };
  const auto count = [](const py::object& o, Where where) {
    return double(integer(o, where, 1, INT32_MAX));
  };
  Schedule read{
      count(field(0), {"every"}), beta(field(1), {"keep"}), count(field(2), {"renew"}), {}};
  const py::sequence early = sequence(field(3), "early");
  for (size_t i = 0; i < early.size(); ++i)
    read.early.push_back(count(py::object(early[i]), {"early", i}));
  return read;
}

// What the plan below has made before the rest of it.
struct WhitenedRows {
  Schedule schedule_;
  std::vector<std::pair<size_t, cpu::WhitenedMatrix>> matrices_;  // with the place of a parameter
  cpu::Buffer<float> whitened_;
};

// The step of the MLP rule on whitened gradients. Matrices are row-major float32.
template <class Backend>
class WhitenedPlan : private WhitenedRows, public LearnedPlan<Backend> {
  using Base = LearnedPlan<Backend>;
  using Base::table_;
  using Base::tensors_;

 public:
  // `shapes`: (rows, columns) of each parameter as a matrix, and behind them the length of the
  // sides that are whitened, 0 for others.
  WhitenedPlan(const py::object& params, const py::object& exp_avgs, const py::object& slow,
               const py::object& exp_avg_sqs, const py::object& stats, const py::object& rows,
               const py::object& rows_roots, const py::object& columns,
               const py::object& columns_roots, const py::object& steps, const py::object& groups,
               const py::object& traits, const py::object& shapes, const py::object& schedule)
      : WhitenedRows{read_schedule(schedule), {}, {}},
        Base(params, exp_avgs, slow, exp_avg_sqs, stats, steps, groups, traits, [&] {
          std::vector<int64_t> squares[2];
          const py::sequence list = table_.beside(shapes, "shapes");
          for (size_t i = 0; i < table_.rows(); ++i) {
            const auto [r, c, row_side, column_side] = read_shape(py::object(list[i]), i);
            squares[0].push_back(row_side * row_side);
            squares[1].push_back(column_side * column_side);
            if (!row_side && !column_side) continue;
            if (r * c != table_.numel(i) || (row_side && row_side != r) ||
                (column_side && column_side != c))
              throw py::value_error(Where{"shapes", i}.str() + " does not fit " +
                                    Where{"params", i}.str() + " of " +
                                    std::to_string(table_.numel(i)) + " numbers");
            if (table_.dtype(i) != DType::f32 || !table_.row_major(i))
              throw py::value_error(Where{"params", i}.str() +
                                    " must be contiguous float32 to be whitened");
            cpu::WhitenedMatrix m{};
            m.students = 1;
            m.row_count = r;
            m.column_count = c;
            m.stride = r * c;
            m.share = 1;
            matrices_.push_back({i, m});
          }
          table_.add_lengths("rows", rows, squares[0]);
          table_.add_lengths("rows_roots", rows_roots, squares[0]);
          table_.add_lengths("columns", columns, squares[1]);
          table_.add_lengths("columns_roots", columns_roots, squares[1]);
        }) {
    size_t size = 0;
    for (const auto& [i, m] : matrices_) size += size_t(m.stride + kLine);
    whitened_.resize(size);
    float* out = whitened_.data();
    for (auto& [i, m] : matrices_) {
      const auto side = [&, place = i](size_t column, int64_t n) -> cpu::WhitenedMatrix::Side {
        if (!table_.cell(column, place)) return {};
        return {static_cast<float*>(table_.cell(column, place)),
                static_cast<const float*>(table_.cell(column + 1, place)), n};
      };
      m.rows = side(5, m.row_count);
      m.columns = side(7, m.column_count);
      m.out = out;
      out += (m.stride + kLine - 1) / kLine * kLine;
    }
  }

  void watch(const py::object& param_groups, const py::object& state) {
    this->watch_states(param_groups, state,
                       {"exp_avg", "exp_avg_slow", "exp_avg_sq", "stats", "rows", "rows_root",
                        "columns", "columns_root", "step"});
  }

  // Begins a step whose gradients are `scale` times too large. Looks that roots are to be made of
  // are made now, and the places of their matrices returned; the others within the step.
  py::list look(const py::object& scale, const py::object& threads) {
    const double times = number(scale, {"scale"});
    if (!(times > 0)) throw py::value_error("scale must be above 0, not " + shown(scale));
    const auto place = uintptr_t(integer(threads, {"threads"}, 1, INT32_MAX));
    return this->with_gradients([&] {
      py::list found;
      std::vector<cpu::WhitenedMatrix> due;
      for (auto& [i, m] : matrices_) {
        m.weight = 0;
        const double made = *tensors_[i].step;
        if (!(made >= 0) || std::fmod(made, schedule_.every) != 0) continue;
        const double looks = made / schedule_.every + 1;
        m.weight = std::max(1 - schedule_.keep, 1 / looks);
        m.share = 1 / (times * times);
        if (!schedule_.renews(looks)) continue;
        due.push_back(m);
        due.back().g = static_cast<const float*>(tensors_[i].g);
        due.back().out = nullptr;
        m.weight = 0;
        found.append(i);
      }
      const py::gil_scoped_release release;
      if (!due.empty()) Backend::whiten(due, place);
      return found;
    });
  }

  void step(const py::object& groups, const py::object& thetas, const py::object& hidden,
            const py::object& control, const py::object& grad_scale, const py::object& found_inf,
            const py::object& threads) {
    const auto run = [&](LearnedStep step, typename Backend::LearnedWorkspace& workspace,
                         uintptr_t place) {
      if (step.found_inf && *step.found_inf != 0) return;
      std::vector<cpu::WhitenedMatrix> now;
      std::vector<LearnedTensor> tensors = tensors_;
      for (auto& [i, m] : matrices_) {
        now.push_back(m);
        now.back().g = static_cast<const float*>(tensors[i].g);
        tensors[i].g = m.out;
        m.weight = 0;
      }
      Backend::whiten(now, place);
      step.tensors = tensors.data();
      Backend::learned(step, workspace, place);
    };
    this->step_by(groups, thetas, hidden, control, grad_scale, found_inf, threads, run);
  }

 private:
  static constexpr int64_t kLine = 16;

  struct Shape {
    int64_t rows, columns, row_side, column_side;
  };
  static Shape read_shape(const py::object& tuple, size_t index) {
    check_fields(tuple, {"shapes", index}, 4);
    const auto at = [&](int f, int64_t low, int64_t high) {
      return integer(py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(tuple.ptr(), f)),
                     {"shapes", index}, low, high);
    };
    return {at(0, 0, INT32_MAX), at(1, 0, INT32_MAX), at(2, 0, 1 << 15), at(3, 0, 1 << 15)};
  }
};

// One matrix: (gradient, out, rows, rows_root, columns, columns_root, weight, shape), float32;
// `out` None where means look only, `rows` and `columns` None where a side is left; with students,
// everything has them in front.
inline cpu::WhitenedMatrix read_matrix(Arrays& arrays, const py::object& tuple, size_t index) {
  enum { kG, kOut, kRows, kRowsRoot, kColumns, kColumnsRoot, kWeight, kShape, kFields };
  static const char* const names[kFields] = {"gradient", "out",          "rows",   "rows_root",
                                             "columns",  "columns_root", "weight", "shape"};
  constexpr int64_t kMost = int64_t(1) << 31;
  check_fields(tuple, {"matrices", index}, kFields);
  const auto item = [&](int f) {
    return py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(tuple.ptr(), f));
  };
  const auto where = [&](int f) { return Where{"matrices", index, names[f]}; };
  check_fields(item(kShape), where(kShape), 3);
  const auto size = [&](int f) {
    return integer(py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(item(kShape).ptr(), f)),
                   where(kShape), 1, kMost);
  };
  cpu::WhitenedMatrix m{};
  m.students = size(0);
  m.row_count = size(1);
  m.column_count = size(2);
  const double numel = double(m.row_count) * double(m.column_count) * double(m.students);
  if (numel > double(kMost))
    throw py::value_error(where(kShape).str() + " must hold at most " + std::to_string(kMost) +
                          " numbers");
  const int64_t one = m.row_count * m.column_count;
  if (m.students == 1) {
    m.g = static_cast<const float*>(arrays.read_numbers(item(kG), where(kG), one));
    m.stride = one;
  } else {
    const auto g = arrays.matrix(item(kG), where(kG));
    if (g.rows != m.students || g.columns != one)
      throw py::value_error(where(kG).str() + " must have the shape [" +
                            std::to_string(m.students) + ", " + std::to_string(one) + "]");
    m.g = static_cast<const float*>(g.data);
    m.stride = g.stride;
  }
  if (!item(kOut).is_none())
    m.out = static_cast<float*>(arrays.write_numbers(item(kOut), where(kOut), m.students * one));
  const auto side = [&](int mean, int64_t n) -> cpu::WhitenedMatrix::Side {
    if (item(mean).is_none()) return {nullptr, nullptr, 0};
    if (n > (int64_t(1) << 15))
      throw py::value_error(where(mean).str() + " must be None where a side is longer than 32768");
    const int64_t all = m.students * n * n;
    auto* const kept = static_cast<float*>(arrays.write_numbers(item(mean), where(mean), all));
    auto* const root =
        static_cast<const float*>(arrays.read_numbers(item(mean + 1), where(mean + 1), all));
    return {kept, root, n};
  };
  m.rows = side(kRows, m.row_count);
  m.columns = side(kColumns, m.column_count);
  if (!m.rows.mean && !m.columns.mean)
    throw py::value_error(Where{"matrices", index}.str() + " has no side that is whitened");
  m.share = 1;
  m.weight = non_negative(item(kWeight), where(kWeight));
  if (m.weight > 1)
    throw py::value_error(where(kWeight).str() + " must be at most 1, not " + shown(item(kWeight)));
  return m;
}

inline void whiten(const py::object& matrices, const py::object& threads) {
  Arrays arrays(dlpack::kCPU, DType::f32);
  std::vector<cpu::WhitenedMatrix> found;
  const py::sequence list = sequence(matrices, "matrices");
  for (size_t i = 0; i < list.size(); ++i)
    found.push_back(read_matrix(arrays, py::object(list[i]), i));
  const auto place = int(integer(threads, {"threads"}, 1, 1 << 16));
  arrays.check_memory();
  const py::gil_scoped_release release;
  cpu::whiten(found, place);
}

template <class Backend>
void bind_whitening(py::module_& m) {
  using Plan = WhitenedPlan<Backend>;
  py::class_<Plan> plan(m, "WhitenedPlan", py::module_local(),
                        "The tensors of a learned rule's step on whitened gradients.");
  const auto o = [](const char* name) { return py::arg(name); };
  plan.def(py::init<const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&>(),
           o("params"), o("exp_avgs"), o("exp_avgs_slow"), o("exp_avg_sqs"), o("stats"), o("rows"),
           o("rows_roots"), o("columns"), o("columns_roots"), o("steps"), o("groups"), o("traits"),
           o("shapes"), o("schedule"))
      .def("look", &Plan::look, o("scale"), o("threads"),
           "Begin a step; says of which parameters the roots are to be made anew.")
      .def("step", &Plan::step, o("groups"), o("thetas"), o("hidden"), o("control"),
           o("grad_scale"), o("found_inf"), o("where"), "One step; `where` is threads.");
  bind_plan<Plan>(plan);
  m.def("whiten", &whiten, py::arg("matrices"), py::arg("threads"),
        "Whitens gradients as matrices, and has the means of their products look at them.");
}

}  // namespace unstuck
