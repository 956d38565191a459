// The order in which blocks, warps and lanes run. CUDA promises none, so a correct kernel gives
// the same answer in every one; a missing barrier shows as a difference between two.
//
// CUDA_EMULATOR_ORDER = forward (the default) | reverse | shuffle | shuffle:SEED
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

namespace cuda_emulator {

class Order {
 public:
  static Order from_environment() {
    const char* text = std::getenv("CUDA_EMULATOR_ORDER");
    return Order(text == nullptr ? "forward" : text);
  }

  explicit Order(const std::string& text) : text_(text) {
    if (text == "forward") {
      kind_ = Kind::kForward;
    } else if (text == "reverse") {
      kind_ = Kind::kReverse;
    } else if (text == "shuffle") {
      kind_ = Kind::kShuffle;
    } else if (text.rfind("shuffle:", 0) == 0 && text.size() > 8 && text.size() < 27 &&
               text.find_first_not_of("0123456789", 8) == std::string::npos) {
      kind_ = Kind::kShuffle;
      state_ = std::stoull(text.substr(8));
    } else {
      throw std::invalid_argument("CUDA_EMULATOR_ORDER is '" + text +
                                  "'; use forward, reverse, shuffle or shuffle:SEED");
    }
  }

  const std::string& text() const { return text_; }

  // Fills `items` with 0 .. count-1 in the order in which they shall run.
  template <class Integer>
  void arrange(Integer* items, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      items[i] = static_cast<Integer>(kind_ == Kind::kReverse ? count - 1 - i : i);
    }
    if (kind_ != Kind::kShuffle) return;
    for (std::size_t i = count; i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

  bool shuffles() const { return kind_ == Kind::kShuffle; }

  // True once in `n` times when shuffling, else never: whether to let others go first here.
  bool interrupts(std::uint64_t n) { return shuffles() && below(n) == 0; }

 private:
  enum class Kind { kForward, kReverse, kShuffle };

  // A number below `limit`, from Steele, Lea and Flood's SplitMix64.
  std::uint64_t below(std::uint64_t limit) {
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (x ^ (x >> 31)) % limit;
  }

  std::string text_;
  Kind kind_;
  std::uint64_t state_ = 0;
};

}  // namespace cuda_emulator
