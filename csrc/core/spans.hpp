// The memory that a step writes, to find what shares bytes with it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/arguments.hpp"

namespace unstuck {

class Spans {
 public:
  void add(const void* data, int64_t bytes, Where where) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    if (data && bytes) spans_.push_back({begin, begin + uintptr_t(bytes), where});
  }

  // To be called once all are added. Throws when two of them share memory.
  void seal() {
    std::sort(spans_.begin(), spans_.end(),
              [](const Span& a, const Span& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < spans_.size(); ++i)
      if (spans_[i].begin < spans_[i - 1].end)
        throw py::value_error(spans_[i - 1].where.str() + " and " + spans_[i].where.str() +
                              " share memory; both would be written: clone one of them");
  }

  // Throws when this memory, which the step reads or writes besides, lies in one of the spans.
  void check_outside(const void* data, int64_t bytes, Where where) const {
    if (const Span* s = hit(data, bytes))
      throw py::value_error(where.str() + " shares memory with " + s->where.str() +
                            ", which the step writes: clone one of them");
  }

 private:
  struct Span {
    uintptr_t begin, end;
    Where where;
  };

  const Span* hit(const void* data, int64_t bytes) const {
    if (!bytes || spans_.empty()) return nullptr;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    if (begin >= spans_.back().end || begin + uintptr_t(bytes) <= spans_.front().begin)
      return nullptr;
    auto it = std::upper_bound(spans_.begin(), spans_.end(), begin,
                               [](uintptr_t x, const Span& s) { return x < s.end; });
    return it != spans_.end() && it->begin < begin + uintptr_t(bytes) ? &*it : nullptr;
  }

  std::vector<Span> spans_;  // sorted and disjoint once sealed
};

}  // namespace unstuck
