// One block: its threads as fibers, and the places where they wait for each other.
//
// A thread runs until it waits, so only the order of threads between two waits is open, and Order
// decides it. A thread may wait for lanes of its warp (shuffles, votes, __syncwarp) or for its
// whole block (__syncthreads). All that meet must meet in one line of the source.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_emulator/fiber.hpp"
#include "cuda_emulator/order.hpp"
#include "cuda_emulator/vector_types.hpp"

inline uint3 threadIdx{};
inline uint3 blockIdx{};
inline dim3 blockDim;
inline dim3 gridDim;
constexpr int warpSize = 32;

namespace cuda_emulator {

// A kernel did what CUDA leaves undefined or what would hang a GPU.
class KernelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr unsigned kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The line of a kernel that calls an operation in which threads meet.
struct Site {
  const char* operation;
  const char* file;
  int line;

  bool operator==(const Site& other) const {
    return line == other.line && same(operation, other.operation) && same(file, other.file);
  }

 private:
  static bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
};

enum class State { kReady, kAtWarp, kAtBlock, kFinished };

struct Thread {
  Fiber fiber;
  uint3 index{};
  unsigned rank = 0;
  State state = State::kFinished;
  bool started = false;

  // While it waits: where, and what it hands to those it meets there.
  Site site{};
  unsigned mask = 0;  // the lanes it waits for; 0: whichever of its warp get here
  unsigned source = 0;
  std::uint64_t given = 0;
  std::uint64_t received = 0;

  unsigned lane() const { return rank % kLanes; }
};

class Block {
 public:
  // Instead of the lane to read from: receive the set of lanes that gave something but zero.
  static constexpr unsigned kVote = kLanes;
  static constexpr std::uint64_t kUndefined = ~std::uint64_t{0};

  // Sets up blocks of shape blockDim that run `body(argument)` in every thread.
  void prepare(void (*body)(void*), void* argument, Order* order) {
    body_ = body;
    argument_ = argument;
    order_ = order;
    size_ = blockDim.x * blockDim.y * blockDim.z;
    if (threads_.size() < size_) threads_.resize(size_);
    for (unsigned rank = 0; rank < size_; ++rank) {
      threads_[rank].rank = rank;
      threads_[rank].index = {rank % blockDim.x, rank / blockDim.x % blockDim.y,
                              rank / (blockDim.x * blockDim.y)};
    }
    warp_order_.resize((size_ + kLanes - 1) / kLanes);
  }

  // Runs one block. What a thread throws, or a KernelError, comes out here.
  void run() {
    for (unsigned rank = 0; rank < size_; ++rank) {
      threads_[rank].state = State::kReady;
      threads_[rank].started = false;
    }
    finished_ = waiting_ = 0;
    calls_since_progress_ = 0;
    while (finished_ < size_) {
      bool progress = false;
      order_->arrange(warp_order_.data(), warp_order_.size());
      for (const unsigned warp : warp_order_) {
        gave_way_ = false;
        while (advance(warp)) {
          progress = true;
          if (gave_way_ || order_->interrupts(2)) break;
        }
      }
      if (!progress && finished_ < size_ && !release_block()) stop(describe_deadlock());
    }
  }

  // --- called by the running thread ---

  Thread& current() {
    if (current_ == nullptr) throw std::logic_error("cuda emulator: used outside a kernel");
    return *current_;
  }

  // Waits for the lanes in `mask`. Receives `given` of lane `source`, or the vote.
  std::uint64_t meet_warp(const Site& site, unsigned mask, std::uint64_t given, unsigned source) {
    Thread& self = current();
    if (mask != 0 && (mask >> self.lane() & 1u) == 0) {
      fail(site, "mask " + hexadecimal(mask) + " does not name the calling lane " +
                     std::to_string(self.lane()));
    }
    self.site = site;
    self.mask = mask;
    self.given = given;
    self.source = source;
    wait(State::kAtWarp);
    return self.received;
  }

  // Waits for the block. Receives the number of threads that gave something but zero.
  std::uint64_t meet_block(const Site& site, std::uint64_t given) {
    Thread& self = current();
    self.site = site;
    self.mask = 0;
    self.given = given;
    ++waiting_;
    wait(State::kAtBlock);
    return self.received;
  }

  // A point where other threads may go first: atomics and fences. Without it a thread that spins
  // until another one writes would spin for ever.
  void give_way() {
    current();
    constexpr std::uint64_t kPatience = 1000, kForever = 20'000'000;
    ++calls_since_progress_;
    if (calls_since_progress_ % kPatience != 0 && !order_->interrupts(4)) return;
    if (calls_since_progress_ > kForever) {
      fail({"an atomic or a fence", "", 0},
           "threads spin and nothing changes; what they wait for may be in another block, "
           "and blocks run one after another here");
    }
    gave_way_ = true;
    wait(State::kReady);
  }

  [[noreturn]] void fail(const Site& site, const std::string& text) {
    std::ostringstream out;
    out << site.operation;
    if (site.line != 0) out << " at " << site.file << ':' << site.line;
    out << " in thread " << show(current().index) << " of block " << show(blockIdx) << ": " << text;
    throw KernelError(out.str());
  }

  static std::string show(const uint3& v) {
    std::ostringstream out;
    out << '(' << v.x << ", " << v.y << ", " << v.z << ')';
    return out.str();
  }

 private:
  struct Cancelled {};  // thrown into suspended threads so that their destructors run

  // Runs the ready lanes of a warp until each waits, then lets those go on that have met.
  bool advance(unsigned warp) {
    Thread* lanes = &threads_[warp * kLanes];
    const unsigned count = std::min(kLanes, size_ - warp * kLanes);
    unsigned char order[kLanes];
    order_->arrange(order, count);
    bool progress = false;
    for (unsigned i = 0; i < count; ++i) {
      if (lanes[order[i]].state != State::kReady) continue;
      resume(lanes[order[i]]);
      progress = true;
      if (error_) cancel();
    }
    release_lanes(lanes, count);
    return progress;
  }

  void release_lanes(Thread* lanes, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      if (lanes[i].state != State::kAtWarp) continue;
      const unsigned here = lanes_that_met(lanes, count, lanes[i]);
      if (here == 0) continue;
      unsigned votes = 0;
      for (unsigned j = 0; j < count; ++j) {
        if ((here >> j & 1u) && lanes[j].given != 0) votes |= 1u << j;
      }
      for (unsigned j = 0; j < count; ++j) {
        if ((here >> j & 1u) == 0) continue;
        const unsigned source = lanes[j].source;
        // A shuffle that reads a lane which takes no part gets garbage, on a GPU as here.
        const bool reads = source < kLanes && (here >> source & 1u);
        lanes[j].received = source == kVote ? votes : reads ? lanes[source].given : kUndefined;
      }
      for (unsigned j = 0; j < count; ++j) {
        if (here >> j & 1u) lanes[j].state = State::kReady;
      }
    }
  }

  // The lanes that wait where `one` waits, or 0 while some lane it waits for is elsewhere. Lanes
  // that have returned, or that a partial warp lacks, need not come.
  static unsigned lanes_that_met(const Thread* lanes, unsigned count, const Thread& one) {
    unsigned here = 0;
    for (unsigned j = 0; j < count; ++j) {
      const Thread& other = lanes[j];
      const bool met =
          other.state == State::kAtWarp && other.mask == one.mask && other.site == one.site;
      const bool wanted = one.mask == 0 || (one.mask >> j & 1u);
      if (met) here |= 1u << j;
      if (!met && wanted && one.mask != 0 && other.state != State::kFinished) return 0;
    }
    return here;
  }

  // Lets the block go on if every one of its threads waits at the same barrier.
  bool release_block() {
    if (waiting_ != size_) return false;
    std::uint64_t votes = 0;
    for (unsigned rank = 0; rank < size_; ++rank) {
      if (!(threads_[rank].site == threads_[0].site)) return false;
      votes += threads_[rank].given != 0;
    }
    for (unsigned rank = 0; rank < size_; ++rank) {
      threads_[rank].received = votes;
      threads_[rank].state = State::kReady;
    }
    waiting_ = 0;
    return true;
  }

  void resume(Thread& thread) {
    current_ = &thread;
    threadIdx = thread.index;
    if (!thread.started) {
      thread.started = true;
      thread.fiber.start(&Block::enter);
    }
    thread.fiber.resume();
    current_ = nullptr;
  }

  void wait(State state) {
    if (state != State::kReady) calls_since_progress_ = 0;
    Thread& self = *current_;
    self.state = state;
    self.fiber.suspend();
    if (cancelling_) throw Cancelled();
  }

  static void enter();

  void run_current() {
    Thread& self = *current_;
    try {
      body_(argument_);
    } catch (const Cancelled&) {
    } catch (...) {
      if (!error_) error_ = std::current_exception();
    }
    self.state = State::kFinished;
    ++finished_;
    calls_since_progress_ = 0;
  }

  // Ends every thread of the block and rethrows what the first of them threw.
  [[noreturn]] void cancel() {
    cancelling_ = true;
    for (unsigned rank = 0; rank < size_; ++rank) {
      Thread& thread = threads_[rank];
      if (thread.started && thread.state != State::kFinished) resume(thread);
    }
    cancelling_ = false;
    std::rethrow_exception(std::exchange(error_, nullptr));
  }

  [[noreturn]] void stop(const std::string& text) {
    error_ = std::make_exception_ptr(KernelError(text));
    cancel();
  }

  // Who waits where, one line a place.
  std::string describe_deadlock() const {
    std::ostringstream out;
    out << "deadlock or divergent barrier in block " << show(blockIdx) << " of " << size_
        << " threads:";
    std::vector<bool> told(size_);
    for (unsigned rank = 0; rank < size_; ++rank) {
      if (told[rank]) continue;
      const Thread& first = threads_[rank];
      unsigned alike = 0;
      for (unsigned other = rank; other < size_; ++other) {
        if (told[other] || !same_place(first, threads_[other])) continue;
        told[other] = true;
        ++alike;
      }
      out << "\n  " << alike << (alike == 1 ? " thread " : " threads ");
      if (first.state == State::kFinished) {
        out << "returned";
      } else {
        out << "at " << first.site.operation << " (" << first.site.file << ':' << first.site.line;
        if (first.state == State::kAtWarp) out << ", mask " << hexadecimal(first.mask);
        out << ')';
      }
      out << ", the first is " << show(first.index);
    }
    return out.str();
  }

  static bool same_place(const Thread& a, const Thread& b) {
    if (a.state != b.state) return false;
    return a.state == State::kFinished || (a.site == b.site && a.mask == b.mask);
  }

  static std::string hexadecimal(unsigned value) {
    std::ostringstream out;
    out << "0x" << std::hex << value;
    return out.str();
  }

  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  Order* order_ = nullptr;
  unsigned size_ = 0;
  std::vector<Thread> threads_;  // kept between launches: their stacks are costly
  std::vector<unsigned> warp_order_;

  Thread* current_ = nullptr;
  unsigned finished_ = 0;
  unsigned waiting_ = 0;
  std::uint64_t calls_since_progress_ = 0;
  bool gave_way_ = false;
  bool cancelling_ = false;
  std::exception_ptr error_;
};

inline Block block;  // the one that runs

inline void Block::enter() { block.run_current(); }

}  // namespace cuda_emulator
