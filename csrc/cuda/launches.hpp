// Which tensors go together in one launch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace unstuck::cuda {

struct TensorLaunch {
  std::vector<uint32_t> rows;
  int32_t group;
  uint32_t blocks;      // at least one
  int64_t first_block;  // of the plan
};

// Tensors of one group and dtype, as many of them as the kernel's arguments hold; decided when a
// plan is made. blocks(tensor) says how many a tensor takes.
template <class Tensor, class Blocks>
std::vector<TensorLaunch> launches_of(const std::vector<Tensor>& tensors, int most,
                                      const Blocks& blocks) {
  std::map<std::pair<int32_t, int>, std::vector<uint32_t>> kinds;
  for (size_t i = 0; i < tensors.size(); ++i)
    kinds[{tensors[i].group, int(tensors[i].dtype)}].push_back(uint32_t(i));
  std::vector<TensorLaunch> list;
  int64_t all = 0;
  for (const auto& kind : kinds) {
    std::vector<uint32_t> some;
    uint64_t sum = 0;
    const auto close = [&] {
      const auto count = uint32_t(std::max<uint64_t>(1, sum));
      list.push_back({some, kind.first.first, count, all});
      all += count;
      some.clear();
      sum = 0;
    };
    for (uint32_t row : kind.second) {
      const uint64_t mine = blocks(tensors[row]);
      // 2^31 - 1 blocks are the most of a launch; no memory holds a tensor that takes more.
      if (int(some.size()) == most || (!some.empty() && sum + mine > 0x7fffffffu)) close();
      some.push_back(row);
      sum += mine;
    }
    close();
  }
  return list;
}

}  // namespace unstuck::cuda
