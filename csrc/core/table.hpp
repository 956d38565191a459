// The tensors of an optimizer step: rows are parameters, columns are the tensors that belong to
// each (the parameter, its moments, ...). A table is checked once when it is built; after that it
// can tell whether anything has moved, and read this step's gradients against the same rules.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/handle.hpp"
#include "core/reader.hpp"
#include "core/spans.hpp"

namespace unstuck {

std::string describe(const TensorView& v);

class TensorTable {
 public:
  explicit TensorTable(int32_t device_type) : device_type_(device_type) {}

  // Adds a column that the step writes. The first column fixes each row's shape, strides, dtype
  // and device; the others must agree with it. Where `optional`, None leaves a row's cell empty.
  void add(const char* name, const py::object& list, bool optional = false);
  // Adds a column of float32 tensors of one element (step counts).
  void add_scalars(const char* name, const py::object& list) { add_vectors(name, list, 1, false); }
  // Adds a column of `length` numbers without gaps a row, float32 or of the row's dtype.
  void add_vectors(const char* name, const py::object& list, int64_t length, bool as_row) {
    add_numbers({name, length, 0, as_row, {}}, list);
  }
  // Adds a column of `times` as many numbers without gaps as the row has, of its dtype.
  void add_multiples(const char* name, const py::object& list, int64_t times) {
    add_numbers({name, 0, times, true, {}}, list);
  }
  // Adds a column of so many numbers without gaps in each row, of its dtype.
  void add_lengths(const char* name, const py::object& list, std::vector<int64_t> lengths) {
    add_numbers({name, 0, 0, true, {}, std::move(lengths)}, list);
  }
  // A list that goes along with the rows: throws unless it has an entry for each.
  py::sequence beside(const py::object& list, const char* name) const;
  // Throws when two cells share memory: a parallel step would race.
  void check_disjoint();

  // The memory of all cells, once check_disjoint has been called.
  const Spans& memory() const { return memory_; }

  // Whether every cell still has the memory, shape, strides, dtype and device it was built with.
  bool unchanged() const;
  // Throws when one has not, and says which.
  void check_unchanged() const;

  // The memory of this row's gradient, which must agree with the row's first column. With `strict`
  // a disagreement throws and says why; without it the answer is false.
  bool read_gradient(size_t row, PyObject* gradient, void** data, bool strict);
  // Throws when a gradient that was read is not where it was. Runs no Python code.
  void check_gradient(size_t row, PyObject* gradient, const void* data) const;

  size_t rows() const { return rows_.size(); }
  void* cell(size_t column, size_t row) const { return columns_[column].cells[row].data; }
  PyObject* object(size_t column, size_t row) const {
    return columns_[column].cells[row].object.ptr();
  }
  size_t columns() const { return columns_.size(); }
  int64_t numel(size_t row) const { return rows_[row].numel; }
  bool row_major(size_t row) const;
  DType dtype(size_t row) const { return rows_[row].dtype; }
  int32_t device_id() const { return device_id_; }

 private:
  struct Cell {
    py::object object;
    void* data = nullptr;
    Handle handle = {};       // for a cheaper look than a read
    int32_t torch_dtype = 0;  // as the handle says it
  };
  struct Column {
    const char* name;
    int64_t length, times;  // of vectors, or of multiples of a row; both 0 where each is like it
    bool as_row;            // they have the row's dtype
    std::vector<Cell> cells;
    std::vector<int64_t> lengths = {};  // of vectors, where each row has its own
    bool numbers() const { return length || times || !lengths.empty(); }
  };
  struct Row {
    int64_t numel;
    DType dtype;
    int32_t ndim;
    size_t geometry;           // where its shape and strides start in geometry_
    void* gradient = nullptr;  // last seen, so that a known one is not checked for overlap again
  };
  bool same_geometry(const Row& row, const TensorView& v) const;
  DType dtype(const Column& column, size_t row) const {
    return column.length && !column.as_row ? DType::f32 : rows_[row].dtype;
  }
  int64_t length(const Column& column, size_t row) const {
    if (!column.lengths.empty()) return column.lengths[row];
    return column.length ? column.length : (column.times ? column.times : 1) * rows_[row].numel;
  }
  void add_numbers(Column column, const py::object& list);
  static void take_handles(Column& column);
  bool unchanged(const Column& column, size_t r) const;

  int32_t device_type_, device_id_ = -1;
  std::vector<Row> rows_;
  std::vector<Column> columns_;
  std::vector<int64_t> geometry_;
  Spans memory_;
};

}  // namespace unstuck
