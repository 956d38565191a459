// Entry points and argument checks of candidates: unstuck.ops.candidates is the Python side.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

#include "candidate_terms.hpp"
#include "core/reader.hpp"
#include "core/spans.hpp"

namespace unstuck {

// Reads the tensors of one call: all of one dtype, on the backend's device, dense, and what is
// written apart from everything else.
class CandidateArguments {
 public:
  CandidateArguments(int32_t device_type, DType dtype) : device_type_(device_type), dtype_(dtype) {}

  // A dense tensor of these sizes.
  void* read(py::handle o, Where where, std::initializer_list<int64_t> shape) {
    const TensorView v = reader().read(o.ptr(), where);
    if (v.device_type != device_type_ || (device_id_ >= 0 && v.device_id != device_id_))
      throw py::value_error(where.str() + " is on another device than the rest");
    device_id_ = v.device_id;
    if (v.dtype != dtype_)
      throw py::value_error(where.str() + " must be of " + name_of(dtype_) + ", as mean is, not " +
                            name_of(v.dtype));
    if (v.ndim != int32_t(shape.size())) refuse_shape(v, where, shape);
    int64_t expected = 1;
    for (int32_t d = v.ndim - 1; d >= 0; --d) {
      const int64_t size = shape.begin()[d];
      if (v.shape[d] != size) refuse_shape(v, where, shape);
      if (v.strides && v.numel && size > 1 && v.strides[d] != expected)
        throw py::value_error(where.str() + " has gaps; call .contiguous() first");
      expected *= size;
    }
    reader().refuse_neg(o.ptr(), where);
    read_.push_back({v.data, v.numel * size_of(dtype_), where});
    return v.data;
  }
  void* write(py::handle o, Where where, std::initializer_list<int64_t> shape) {
    void* data = read(o, where, shape);
    written_.add(data, read_.back().bytes, where);
    read_.pop_back();
    return data;
  }
  // Once all are read.
  void check_memory() {
    written_.seal();
    for (const Read& r : read_) written_.check_outside(r.data, r.bytes, r.where);
  }

 private:
  struct Read {
    const void* data;
    int64_t bytes;
    Where where;
  };

  [[noreturn]] static void refuse_shape(const TensorView& v, Where where,
                                        std::initializer_list<int64_t> shape) {
    const auto text = [](const int64_t* sizes, size_t n) {
      std::string s = "[";
      for (size_t i = 0; i < n; ++i) s += (i ? ", " : "") + std::to_string(sizes[i]);
      return s + "]";
    };
    throw py::value_error(where.str() + " must have the shape " +
                          text(shape.begin(), shape.size()) + ", not " +
                          text(v.shape, size_t(v.ndim)));
  }

  int32_t device_type_, device_id_ = -1;
  DType dtype_;
  Spans written_;
  std::vector<Read> read_;
};

// body(R(), arguments) with R the tensor's type.
template <class Body>
void with_float(int32_t device_type, const py::object& tensor, const char* name, const Body& body) {
  const DType dtype = reader().read(tensor.ptr(), {name}).dtype;
  if (dtype == DType::f32)
    body(float(), CandidateArguments(device_type, dtype));
  else if (dtype == DType::f64)
    body(double(), CandidateArguments(device_type, dtype));
  else
    throw py::type_error(std::string(name) + " must be float32 or float64, not " + name_of(dtype));
}

inline py::tuple fields(const py::object& o, const char* name, size_t size) {
  if (!PyTuple_Check(o.ptr()) || size_t(PyTuple_GET_SIZE(o.ptr())) != size)
    throw py::type_error(std::string(name) + " must be a tuple of " + std::to_string(size) +
                         " fields, not " + shown(o));
  return py::reinterpret_borrow<py::tuple>(o);
}

inline NoiseKey noise_key(py::handle seed, py::handle iteration, py::handle stream,
                          py::handle rounds) {
  PyObject* index = PyNumber_Index(seed.ptr());
  if (!index) {
    forget_error();
    throw py::type_error("seed must be an integer, not " + shown(seed));
  }
  const unsigned long long key = PyLong_AsUnsignedLongLong(index);
  Py_DECREF(index);
  if (key == static_cast<unsigned long long>(-1) && PyErr_Occurred()) {
    forget_error();
    throw py::value_error("seed must be from 0 to 2^64 - 1, not " + shown(seed));
  }
  const int64_t n = integer(rounds, {"rounds"}, 7, 10);
  if (n != 7 && n != 10) throw py::value_error("rounds must be 7 or 10, not " + shown(rounds));
  return {uint32_t(key), uint32_t(key >> 32),
          uint32_t(integer(iteration, {"iteration"}, 0, UINT32_MAX)),
          uint32_t(integer(stream, {"stream"}, 0, UINT32_MAX)), int(n)};
}

// A landscape by its number, or -1 for none, and its parameters.
inline LandscapeView read_landscape(const py::object& landscape, const py::object& parameters,
                                    int landscapes) {
  LandscapeView view{};
  view.landscape = int(integer(landscape, {"landscape"}, -1, landscapes - 1));
  const py::sequence list = sequence(parameters, "parameters");
  if (list.size() > 2) throw py::value_error("parameters must be at most two numbers");
  for (size_t i = 0; i < list.size(); ++i)
    view.parameters.p[i] = number(py::object(list[i]), {"parameters", i});
  return view;
}

// A Backend has: kDeviceType, kLandscapes, Scratch; place(), which makes of `where` (the number of
// threads on the CPU, the stream on CUDA) what its functions take; losses, moments, softmax, sample
// and values, as in cpu/candidates.hpp; workspace_size(), and set_workspace(scratch, memory, size).
template <class Backend>
class CandidatePlan {
 public:
  CandidatePlan(const py::object& landscape, const py::object& parameters, const py::object& dim) {
    objective_ = read_landscape(landscape, parameters, Backend::kLandscapes);
    dim_ = integer(dim, {"dim"}, objective_.landscape < 0 ? 0 : 1, int64_t(1) << 34);
  }

  void losses(const py::object& region, const py::object& draw, const py::object& out,
              const py::object& where) {
    with_dtype(region, [&](auto zero, CandidateArguments& arguments) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const auto view = read_region<R>(region, count, arguments);
      R* to = static_cast<R*>(arguments.write(out, {"out"}, {count}));
      call<R>(arguments, draw, where, [&](const auto& drawn, auto place) {
        Backend::losses(objective(), view, drawn, count, to, scratch_, place);
      });
    });
  }

  void combine(const py::object& region, const py::object& draw, const py::object& weights,
               const py::object& shift, const py::object& square, const py::object& where) {
    with_dtype(region, [&](auto zero, CandidateArguments& arguments) {
      using R = decltype(zero);
      const int64_t count = length(weights, "weights");
      const auto view = read_region<R>(region, count, arguments);
      const R* a = static_cast<const R*>(arguments.read(weights, {"weights"}, {count}));
      R* to = static_cast<R*>(arguments.write(shift, {"shift"}, {dim_}));
      R* to_square = static_cast<R*>(arguments.write(square, {"square"}, {dim_}));
      call<R>(arguments, draw, where, [&](const auto& drawn, auto place) {
        Backend::moments(view, drawn, a, count, to, to_square, scratch_, place);
      });
    });
  }

  double softmax(const py::object& region, const py::object& draw, const py::object& beta,
                 const py::object& out, const py::object& shift, const py::object& square,
                 const py::object& where) {
    double size = 0;
    with_dtype(region, [&](auto zero, CandidateArguments& arguments) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const auto view = read_region<R>(region, count, arguments);
      R* to = static_cast<R*>(arguments.write(out, {"out"}, {count}));
      R* to_shift = static_cast<R*>(arguments.write(shift, {"shift"}, {dim_}));
      R* to_square = static_cast<R*>(arguments.write(square, {"square"}, {dim_}));
      const double temperature = non_negative(beta, {"beta"});
      call<R>(arguments, draw, where, [&](const auto& drawn, auto place) {
        size = Backend::softmax(objective(), view, drawn, count, temperature, to, to_shift,
                                to_square, scratch_, place);
      });
    });
    return size;
  }

  void sample(const py::object& region, const py::object& draw, const py::object& first,
              const py::object& out, const py::object& where) {
    with_dtype(region, [&](auto zero, CandidateArguments& arguments) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const int64_t begin = integer(first, {"first"}, 0, UINT32_MAX - count);
      const auto view = read_region<R>(region, begin + count, arguments);
      R* to = static_cast<R*>(arguments.write(out, {"out"}, {count, dim_}));
      call<R>(arguments, draw, where, [&](const auto& drawn, auto place) {
        Backend::sample(view, drawn, begin, count, to, place);
      });
    });
  }

  void values(const py::object& points, const py::object& out, const py::object& where) {
    const auto dispatch = [&](auto zero, CandidateArguments arguments) {
      using R = decltype(zero);
      const int64_t count = length(out, "out");
      const R* x = static_cast<const R*>(arguments.read(points, {"points"}, {count, dim_}));
      R* to = static_cast<R*>(arguments.write(out, {"out"}, {count}));
      arguments.check_memory();
      const auto place = Backend::place(integer(where, {"where"}, 0, INT64_MAX));
      const auto function = objective();
      py::gil_scoped_release release;
      Backend::values(function, x, count, dim_, to, scratch_, place);
    };
    with_float(Backend::kDeviceType, points, "points", dispatch);
  }

  // Memory on the device: as many float64 numbers as calls with this many candidates need.
  int64_t workspace_size(const py::object& count, const py::object& antithetic) const {
    return Backend::workspace_size(dim_, integer(count, {"count"}, 0, UINT32_MAX),
                                   flag(antithetic, {"antithetic"}));
  }
  void set_workspace(const py::object& workspace) {
    const int64_t size = length(workspace, "workspace");
    CandidateArguments arguments(Backend::kDeviceType, DType::f64);
    auto* memory = static_cast<double*>(arguments.write(workspace, {"workspace"}, {size}));
    Backend::set_workspace(scratch_, memory, size);
    workspace_ = workspace;
  }

 protected:
  static int64_t length(const py::object& o, const char* name) {
    const TensorView v = reader().read(o.ptr(), {name});
    if (v.ndim < 1) throw py::value_error(std::string(name) + " must have a dimension");
    if (v.shape[0] > int64_t(UINT32_MAX))
      throw py::value_error(std::string(name) + " must have at most 2^32 - 1 rows");
    return v.shape[0];
  }

  template <class Body>
  void with_dtype(const py::object& region, const Body& body) {
    const py::tuple parts = fields(region, "region", 6);
    with_float(Backend::kDeviceType, py::object(parts[0]), "mean",
               [&](auto zero, CandidateArguments arguments) { body(zero, arguments); });
  }

  const LandscapeView& objective() const {
    if (objective_.landscape < 0) throw py::value_error("this plan has no objective");
    return objective_;
  }

  template <class R>
  RegionView<R> read_region(const py::object& object, int64_t count,
                            CandidateArguments& arguments) {
    const py::tuple parts = fields(object, "region", 6);
    RegionView<R> view = read_limits<R>(parts, arguments);
    const py::object mean(parts[0]), sigma(parts[1]), scale(parts[2]);
    view.mean = static_cast<const R*>(arguments.read(mean, {"mean"}, {dim_}));
    if (reader().is_tensor(sigma.ptr()))
      view.sigmas = static_cast<const R*>(arguments.read(sigma, {"sigma"}, {count}));
    else
      view.sigma = R(number(sigma, {"sigma"}));
    if (!scale.is_none())
      view.scale = static_cast<const R*>(arguments.read(scale, {"scale"}, {dim_}));
    return view;
  }
  // The box of a region, and its size.
  template <class R>
  RegionView<R> read_limits(const py::tuple& parts, CandidateArguments& arguments) {
    const py::object low(parts[3]), high(parts[4]), bound(parts[5]);
    RegionView<R> view{};
    view.dim = dim_;
    if (!low.is_none()) view.low = static_cast<const R*>(arguments.read(low, {"low"}, {dim_}));
    if (!high.is_none()) view.high = static_cast<const R*>(arguments.read(high, {"high"}, {dim_}));
    if ((view.low == nullptr) != (view.high == nullptr) && dim_)
      throw py::value_error("low and high must both be given, or neither");
    const auto name = shown(bound);
    if (name != "'clip'" && name != "'reflect'")
      throw py::value_error("bound must be 'clip' or 'reflect', not " + name);
    view.bound = !view.low ? Bound::none : name == "'clip'" ? Bound::clip : Bound::reflect;
    return view;
  }

  // Checks the rest, lets go of the interpreter and runs body(draw, place).
  template <class R, class Body>
  void call(CandidateArguments& arguments, const py::object& draw, const py::object& where,
            const Body& body) {
    arguments.check_memory();
    const py::tuple parts = fields(draw, "draw", 5);
    const auto item = [&](int i) { return py::object(parts[size_t(i)]); };
    const DrawView drawn{noise_key(item(0), item(1), item(2), item(4)),
                         flag(item(3), {"antithetic"})};
    const auto place = Backend::place(integer(where, {"where"}, 0, INT64_MAX));
    if (busy_) throw std::runtime_error("this plan is in use by another thread: make one each");
    busy_ = true;
    struct Leave {
      bool& busy;
      ~Leave() { busy = false; }  // with the interpreter held again
    } leave{busy_};
    py::gil_scoped_release release;
    body(drawn, place);
  }

  LandscapeView objective_{};
  int64_t dim_ = 0;
  typename Backend::Scratch scratch_;
  py::object workspace_;
  bool busy_ = false;
};

template <class Backend>
void bind_candidates(py::module_& m) {
  using Plan = CandidatePlan<Backend>;
  // Local: the emulated module has the same class, and the tests load both.
  py::class_<Plan>(m, "CandidatePlan", py::module_local(),
                   "Candidates of one objective: evaluated and weighed without being stored.")
      .def(py::init<const py::object&, const py::object&, const py::object&>(),
           py::arg("landscape"), py::arg("parameters"), py::arg("dim"))
      .def("losses", &Plan::losses, py::arg("region"), py::arg("draw"), py::arg("out"),
           py::arg("where"), "Losses of the candidates; `where` is threads or the stream.")
      .def("combine", &Plan::combine, py::arg("region"), py::arg("draw"), py::arg("weights"),
           py::arg("shift"), py::arg("square"), py::arg("where"),
           "Weighted sums of the candidates' ways from the mean.")
      .def("softmax", &Plan::softmax, py::arg("region"), py::arg("draw"), py::arg("beta"),
           py::arg("out"), py::arg("shift"), py::arg("square"), py::arg("where"),
           "Losses and softmax-weighted sums; returns the effective sample size.")
      .def("sample", &Plan::sample, py::arg("region"), py::arg("draw"), py::arg("first"),
           py::arg("out"), py::arg("where"), "Candidates first, first + 1, ...")
      .def("values", &Plan::values, py::arg("points"), py::arg("out"), py::arg("where"),
           "The objective at the rows of a matrix.")
      .def("workspace_size", &Plan::workspace_size, py::arg("count"), py::arg("antithetic"),
           "float64 numbers that set_workspace() needs for calls with this many candidates.")
      .def("set_workspace", &Plan::set_workspace, py::arg("workspace"),
           "Lend scratch memory on the device.");
  m.def(
      "noise_words",
      [](const py::object& draw, const py::object& first, const py::object& out,
         const py::object& form, const py::object& where) {
        const TensorView v = reader().read(out.ptr(), {"out"});
        if (v.ndim != 2) throw py::value_error("out must have two dimensions");
        CandidateArguments arguments(Backend::kDeviceType, DType::f64);
        double* to = static_cast<double*>(arguments.write(out, {"out"}, {v.shape[0], v.shape[1]}));
        const int64_t count = v.shape[0], dim = v.shape[1];
        const int64_t begin = integer(first, {"first"}, 0, UINT32_MAX);
        integer(py::int_(begin + count), {"first + count"}, 0, int64_t(UINT32_MAX) + 1);
        const py::tuple parts = fields(draw, "draw", 5);
        const NoiseKey key = noise_key(py::object(parts[0]), py::object(parts[1]),
                                       py::object(parts[2]), py::object(parts[4]));
        Backend::words(key, begin, count, dim, to, std::string(py::str(form)),
                       Backend::place(integer(where, {"where"}, 0, INT64_MAX)));
      },
      py::arg("draw"), py::arg("first"), py::arg("out"), py::arg("form"), py::arg("where"),
      "The integers behind the noise, as float64; `form` is one of noise_forms().");
  m.def(
      "noise_forms",
      [] {
        py::list forms;
        for (const std::string& form : Backend::noise_forms()) forms.append(form);
        return forms;
      },
      "The instruction sets that noise can be drawn with.");
}

}  // namespace unstuck
