#include "core/table.hpp"

#include <algorithm>
#include <string>

namespace unstuck {

namespace {

// Whether the elements fill one block of memory, each exactly once, in whatever order.
bool is_dense(const TensorView& v) {
  if (!v.strides || v.numel <= 1) return true;
  constexpr int kMany = 64;
  if (v.ndim > kMany) return false;
  int order[kMany], n = 0;
  for (int d = 0; d < v.ndim; ++d)
    if (v.shape[d] != 1) order[n++] = d;
  std::sort(order, order + n, [&](int a, int b) { return v.strides[a] < v.strides[b]; });
  int64_t expected = 1;
  for (int i = 0; i < n; ++i) {
    if (v.strides[order[i]] != expected) return false;
    expected *= v.shape[order[i]];
  }
  return true;
}

// Whether these are `length` numbers, row-major and without gaps.
bool is_vector(const TensorView& v, int64_t length) {
  int64_t numel = 1;
  bool gaps = false;
  for (int32_t d = v.ndim - 1; d >= 0; numel *= v.shape[d--])
    gaps |= v.strides && v.shape[d] != 1 && v.strides[d] != numel;
  return numel == length && (!gaps || !numel);
}

std::string list_of(const int64_t* x, int32_t n) {
  std::string s = "(";
  for (int32_t i = 0; i < n; ++i) s += (i ? ", " : "") + std::to_string(x[i]);
  return s + ")";
}

std::string name_of_device(int32_t type, int32_t id) {
  if (type == dlpack::kCPU) return "cpu";
  if (type == dlpack::kCUDA) return "cuda:" + std::to_string(id);
  return "device type " + std::to_string(type);
}

}  // namespace

std::string describe(const TensorView& v) {
  std::string s = std::string(name_of(v.dtype)) + " of shape " + list_of(v.shape, v.ndim);
  if (v.strides) s += ", strides " + list_of(v.strides, v.ndim);
  return s + ", on " + name_of_device(v.device_type, v.device_id);
}

bool TensorTable::same_geometry(const Row& row, const TensorView& v) const {
  if (v.ndim != row.ndim) return false;
  const int64_t *shape = geometry_.data() + row.geometry, *strides = shape + row.ndim;
  for (int32_t d = 0; d < row.ndim; ++d)
    if (v.shape[d] != shape[d]) return false;
  if (!row.numel) return true;
  int64_t row_major = 1;
  for (int32_t d = row.ndim - 1; d >= 0; row_major *= shape[d--])
    if (shape[d] != 1 && (v.strides ? v.strides[d] : row_major) != strides[d]) return false;
  return true;
}

bool TensorTable::row_major(size_t r) const {
  const Row& row = rows_[r];
  const int64_t *shape = geometry_.data() + row.geometry, *strides = shape + row.ndim;
  int64_t expected = 1;
  for (int32_t d = row.ndim - 1; d >= 0; expected *= shape[d--])
    if (row.numel && shape[d] != 1 && strides[d] != expected) return false;
  return true;
}

py::sequence TensorTable::beside(const py::object& list, const char* name) const {
  py::sequence s = sequence(list, name);
  if (s.size() != rows_.size())
    throw py::value_error(std::string(name) + " has " + std::to_string(s.size()) +
                          " entries, but " + columns_[0].name + " has " +
                          std::to_string(rows_.size()));
  return s;
}

void TensorTable::add(const char* name, const py::object& list, bool optional) {
  const bool first = columns_.empty();
  const py::sequence tensors = first ? sequence(list, name) : beside(list, name);
  const size_t n = tensors.size();
  Column column{name, 0, 0, false, {}};
  for (size_t i = 0; i < n; ++i) {
    const Where where{name, i};
    py::object o = tensors[i];
    column.cells.emplace_back();
    if (optional && o.is_none()) continue;
    const TensorView v = reader().read(o.ptr(), where);
    if (v.device_type != device_type_)
      throw py::value_error(where.str() + " is on " + name_of_device(v.device_type, v.device_id) +
                            ", but this step runs on " +
                            (device_type_ == dlpack::kCPU ? "the CPU" : "a CUDA device"));
    if (first) {
      if (v.dtype == DType::other)
        throw py::type_error(where.str() + " must be float32, float64, bfloat16 or float16, not " +
                             std::string(py::str(o.attr("dtype"))));
      if (device_id_ >= 0 && v.device_id != device_id_)
        throw py::value_error(where.str() + " is on " + name_of_device(v.device_type, v.device_id) +
                              ", but " + name + "[0] is on " +
                              name_of_device(v.device_type, device_id_) +
                              "; one step takes the tensors of one device");
      if (!is_dense(v))
        throw py::value_error(where.str() + " must fill its memory without gaps or overlaps: " +
                              describe(v) + "; use .contiguous()");
      device_id_ = v.device_id;
      Row row{v.numel, v.dtype, v.ndim, geometry_.size()};
      geometry_.insert(geometry_.end(), v.shape, v.shape + v.ndim);
      geometry_.resize(geometry_.size() + v.ndim);
      int64_t* strides = geometry_.data() + row.geometry + v.ndim;
      int64_t row_major = 1;
      for (int32_t d = v.ndim - 1; d >= 0; --d) {
        strides[d] = v.strides ? v.strides[d] : row_major;
        if (v.numel) row_major *= v.shape[d];
      }
      rows_.push_back(row);
    } else if (v.dtype != rows_[i].dtype || v.device_id != device_id_ ||
               !same_geometry(rows_[i], v)) {
      throw py::value_error(where.str() + " must agree with " + columns_[0].name + "[" +
                            std::to_string(i) + "] in dtype, device, shape and strides; it is " +
                            describe(v));
    }
    reader().refuse_neg(o.ptr(), where);
    column.cells[i] = {std::move(o), v.data};
  }
  if (!first) take_handles(column);
  columns_.push_back(std::move(column));
}

void TensorTable::add_numbers(Column column, const py::object& list) {
  const char* const name = column.name;
  const py::sequence tensors = beside(list, name);
  column.cells.resize(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Where where{name, i};
    py::object o = tensors[i];
    const TensorView v = reader().read(o.ptr(), where);
    const int64_t wanted = length(column, i);
    if (v.dtype != dtype(column, i) || !is_vector(v, wanted) || v.device_type != device_type_ ||
        v.device_id != device_id_)
      throw py::value_error(where.str() + " must be " +
                            (wanted == 1 ? "one " : std::to_string(wanted) + " contiguous ") +
                            name_of(dtype(column, i)) + " on the device of the parameters; it is " +
                            describe(v));
    reader().refuse_neg(o.ptr(), where);
    column.cells[i] = {std::move(o), v.data};
  }
  take_handles(column);
  columns_.push_back(std::move(column));
}

void TensorTable::take_handles(Column& column) {
  py::list tensors;
  for (const Cell& cell : column.cells)
    if (cell.object) tensors.append(cell.object);
  std::vector<Handle> handles = Handle::of(tensors);
  size_t next = 0;
  for (Cell& cell : column.cells) {
    if (!cell.object) continue;
    Handle handle = std::move(handles[next++]);
    Handle::View v;
    if (!handle || !handle.look(&v) || v.data != cell.data) continue;
    cell.torch_dtype = v.dtype;
    cell.handle = std::move(handle);
  }
}

void TensorTable::check_disjoint() {
  for (const Column& column : columns_)
    for (size_t r = 0; r < rows_.size(); ++r)
      memory_.add(column.cells[r].data, length(column, r) * size_of(dtype(column, r)),
                  {column.name, r});
  memory_.seal();
}

bool TensorTable::unchanged() const {
  for (const Column& column : columns_)
    for (size_t r = 0; r < rows_.size(); ++r)
      if (column.cells[r].object && !unchanged(column, r)) return false;
  return true;
}

void TensorTable::check_unchanged() const {
  for (const Column& column : columns_)
    for (size_t r = 0; r < rows_.size(); ++r)
      if (column.cells[r].object && !unchanged(column, r))
        throw py::value_error(Where{column.name, r}.str() +
                              " has changed since the plan was made: make another plan");
}

bool TensorTable::unchanged(const Column& column, size_t r) const {
  const Cell& cell = column.cells[r];
  TensorView v;
  if (cell.handle) {  // on another device the memory would be elsewhere
    Handle::View look;
    if (!cell.handle.look(&look) || look.data != cell.data || look.dtype != cell.torch_dtype)
      return false;
    v.ndim = int32_t(look.ndim);
    v.shape = look.shape;
    v.strides = look.strides;
  } else {
    try {
      v = reader().read(cell.object.ptr(), {column.name, r});
    } catch (const std::exception&) {
      return false;  // whoever builds the next plan will say why
    }
    if (v.data != cell.data || v.device_type != device_type_ || v.device_id != device_id_ ||
        v.dtype != dtype(column, r))
      return false;
  }
  return column.numbers() ? is_vector(v, length(column, r)) : same_geometry(rows_[r], v);
}

bool TensorTable::read_gradient(size_t r, PyObject* gradient, void** data, bool strict) {
  const Where where{"grads", r};
  if (!strict && !reader().is_plain(gradient)) return false;
  Row& row = rows_[r];
  TensorView v;
  try {
    v = reader().read(gradient, where);
  } catch (const std::exception&) {
    if (strict) throw;
    return false;
  }
  if (v.dtype != row.dtype || v.device_type != device_type_ || v.device_id != device_id_ ||
      !same_geometry(row, v)) {
    if (!strict) return false;
    const int64_t* shape = geometry_.data() + row.geometry;
    throw py::value_error(where.str() + " must agree with " + columns_[0].name + "[" +
                          std::to_string(r) + "] (" + name_of(row.dtype) + " of shape " +
                          list_of(shape, row.ndim) + ", strides " +
                          list_of(shape + row.ndim, row.ndim) +
                          ") in dtype, device, shape and strides; it is " + describe(v));
  }
  // A known address needs no second look; one element can be a negated view anywhere.
  if (v.data != row.gradient || v.numel == 1) {
    if (!strict && reader().is_neg(gradient)) return false;
    reader().refuse_neg(gradient, where);
    memory_.check_outside(v.data, v.numel * size_of(v.dtype), where);
    row.gradient = v.data;
  }
  *data = v.data;
  return true;
}

void TensorTable::check_gradient(size_t r, PyObject* gradient, const void* data) const {
  const Where where{"grads", r};
  const TensorView v = reader().read(gradient, where);
  if (v.data != data || v.dtype != rows_[r].dtype || !same_geometry(rows_[r], v))
    throw py::value_error(where.str() + " has changed since it was read: set the gradients again");
}

}  // namespace unstuck
