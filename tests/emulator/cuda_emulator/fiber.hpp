// Fibers: stacks that one operating system thread switches between. Each CUDA thread is one.
//
// On x86-64 a switch is a dozen instructions; elsewhere, or with CUDA_EMULATOR_UCONTEXT defined,
// it is swapcontext. AddressSanitizer is told of every switch, and a guard page lies under every
// stack, so that an overflow is a fault and not a neighbour's bad number.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#if !defined(__x86_64__) && !defined(CUDA_EMULATOR_UCONTEXT)
#define CUDA_EMULATOR_UCONTEXT
#endif
#if defined(CUDA_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_EMULATOR_ASAN 1
#endif
#endif
#if !defined(CUDA_EMULATOR_ASAN)
#define CUDA_EMULATOR_ASAN 0
#endif
#if CUDA_EMULATOR_ASAN
#include <sanitizer/common_interface_defs.h>
#define CUDA_EMULATOR_NO_ASAN __attribute__((no_sanitize("address")))
#else
#define CUDA_EMULATOR_NO_ASAN
#endif

namespace cuda_emulator {

// A stack with a page below it that nobody may touch.
class Stack {
 public:
  // Kernel parameters (up to 32 KB) are copied here, and sanitizers widen every frame.
  static constexpr std::size_t kBytes = CUDA_EMULATOR_ASAN ? 512 * 1024 : 256 * 1024;

  Stack() : guard_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    void* memory = mmap(nullptr, guard_ + kBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(memory);
    if (mprotect(base_, guard_, PROT_NONE) != 0) {
      munmap(base_, guard_ + kBytes);
      throw std::bad_alloc();
    }
  }
  ~Stack() {
    if (base_ != nullptr) munmap(base_, guard_ + kBytes);
  }
  Stack(Stack&& other) noexcept
      : guard_(other.guard_), base_(std::exchange(other.base_, nullptr)) {}
  Stack& operator=(Stack&&) = delete;

  char* bottom() const { return base_ + guard_; }
  char* top() const { return bottom() + kBytes; }

 private:
  std::size_t guard_;
  char* base_ = nullptr;
};

// Where a suspended flow of control goes on.
#if defined(CUDA_EMULATOR_UCONTEXT)

class Context {
 public:
  void prepare(const Stack& stack, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom();
    context_.uc_stack.ss_size = Stack::kBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_;
};

#else

class Context {
 public:
  void prepare(const Stack& stack, void (*entry)()) {
    void** pointer = reinterpret_cast<void**>(stack.top());
    *--pointer = nullptr;  // where `entry` would return to; it never does
    *--pointer = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--pointer = nullptr;
    pointer_ = pointer;
  }
  static void swap(Context& from, Context& to) { swap_stacks(&from.pointer_, to.pointer_); }

 private:
  // Saves the registers that a call must preserve on this stack, and restores those of the other.
  __attribute__((naked, noinline)) CUDA_EMULATOR_NO_ASAN static void swap_stacks(void**, void*) {
    asm("pushq %rbp\n\t"
        "pushq %rbx\n\t"
        "pushq %r12\n\t"
        "pushq %r13\n\t"
        "pushq %r14\n\t"
        "pushq %r15\n\t"
        "movq %rsp, (%rdi)\n\t"
        "movq %rsi, %rsp\n\t"
        "popq %r15\n\t"
        "popq %r14\n\t"
        "popq %r13\n\t"
        "popq %r12\n\t"
        "popq %rbx\n\t"
        "popq %rbp\n\t"
        "ret");
  }

  void* pointer_ = nullptr;
};

#endif

// One fiber. `resume` is called by the scheduler, `suspend` by the code that runs on the fiber.
class Fiber {
 public:
  using Entry = void (*)();  // must not throw

  void start(Entry entry) {
    entry_ = entry;
    context_.prepare(stack_, &Fiber::trampoline);
  }

  // Runs the fiber until it suspends itself or its entry returns.
  void resume() {
    running = this;
#if CUDA_EMULATOR_ASAN
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack_.bottom(), Stack::kBytes);
#endif
    Context::swap(scheduler, context_);
#if CUDA_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  void suspend() {
#if CUDA_EMULATOR_ASAN
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, scheduler_bottom, scheduler_bytes);
#endif
    Context::swap(context_, scheduler);
#if CUDA_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_bottom, &scheduler_bytes);
#endif
  }

 private:
  CUDA_EMULATOR_NO_ASAN static void trampoline() {
#if CUDA_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_bytes);
#endif
    running->entry_();
#if CUDA_EMULATOR_ASAN
    __sanitizer_start_switch_fiber(nullptr, scheduler_bottom, scheduler_bytes);
#endif
    Context::swap(running->context_, scheduler);
    __builtin_unreachable();
  }

  static inline Fiber* running = nullptr;
  static inline Context scheduler;
#if CUDA_EMULATOR_ASAN
  static inline const void* scheduler_bottom = nullptr;
  static inline std::size_t scheduler_bytes = 0;
#endif

  Stack stack_;
  Context context_;
  Entry entry_ = nullptr;
};

}  // namespace cuda_emulator
