// Shared memory: what a block finds there is garbage, never zeros and never the last block's.
//
// A __shared__ variable is `static thread_local`, and every launch runs on a thread of its own, in
// which nothing but the kernel touches this module's thread-local memory. So all of it can be
// filled with garbage before a block starts, whichever kernels, templates or inline functions its
// variables belong to. (g++ ignores section attributes on the static variables of templates, which
// rules out a section of our own.)
//
// Under AddressSanitizer a __shared__ variable is plain `static`: thread-local variables get no
// red zones, and an index past the end is what that build is to find.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "cuda_emulator/fiber.hpp"

#if defined(__linux__)
#include <link.h>
#endif

#if CUDA_EMULATOR_ASAN
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

namespace cuda_emulator {

constexpr unsigned char kGarbage = 0xff;  // as floats NaN, as integers -1

constexpr std::size_t kSharedBytesDefault = 48 * 1024;  // of one block, without asking
constexpr std::size_t kSharedBytesOptIn = 227 * 1024;   // with cudaFuncSetAttribute

class SharedMemory {
 public:
  // To be called on the thread that will run the kernel.
  explicit SharedMemory(std::size_t dynamic_bytes)
      : dynamic_bytes_(dynamic_bytes), dynamic_(new unsigned char[dynamic_bytes + kTail]) {
    find_static();
  }

  void fill_with_garbage() {
    if (static_bytes_ > 0) std::memset(static_, kGarbage, static_bytes_);
    std::memset(dynamic(), kGarbage, dynamic_bytes_ + kTail);
  }

  unsigned char* dynamic() const { return dynamic_.get(); }

  // How many bytes of __shared__ variables the block has written: a lower bound of their size.
  std::size_t static_bytes_written() const {
    const auto untouched = std::count(static_, static_ + static_bytes_, kGarbage);
    return static_bytes_ - static_cast<std::size_t>(untouched);
  }

  // Whether the block wrote past the end of its dynamic shared memory.
  bool overrun() const {
    const unsigned char* tail = dynamic() + dynamic_bytes_;
    return std::count(tail, tail + kTail, kGarbage) != kTail;
  }

 private:
  // AddressSanitizer finds an overrun by itself, if the allocation ends where the request does.
  static constexpr std::ptrdiff_t kTail = CUDA_EMULATOR_ASAN ? 0 : 256;
  static_assert(__STDCPP_DEFAULT_NEW_ALIGNMENT__ >= 16, "a kernel may load 16 bytes at a time");

  void find_static() {
#if defined(__linux__) && !CUDA_EMULATOR_ASAN
    anchor = 0;  // makes sure that this thread has its copy of the module's variables
    dl_iterate_phdr(&SharedMemory::find_in_module, this);
    if (static_bytes_ == 0) throw std::logic_error("cuda emulator: thread-local memory not found");
#endif
  }

#if defined(__linux__) && !CUDA_EMULATOR_ASAN
  static int find_in_module(dl_phdr_info* module, std::size_t, void* self) {
    auto* begin = static_cast<unsigned char*>(module->dlpi_tls_data);
    if (begin == nullptr) return 0;
    for (int i = 0; i < module->dlpi_phnum; ++i) {
      if (module->dlpi_phdr[i].p_type != PT_TLS) continue;
      const std::size_t bytes = module->dlpi_phdr[i].p_memsz;
      if (&anchor < begin || &anchor >= begin + bytes) continue;
      static_cast<SharedMemory*>(self)->static_ = begin;
      static_cast<SharedMemory*>(self)->static_bytes_ = bytes;
      return 1;
    }
    return 0;
  }
  static inline thread_local unsigned char anchor;
#endif

  std::size_t dynamic_bytes_;
  std::unique_ptr<unsigned char[]> dynamic_;
  unsigned char* static_ = nullptr;
  std::size_t static_bytes_ = 0;
};

inline SharedMemory* shared_memory = nullptr;  // of the running block

}  // namespace cuda_emulator

// extern __shared__ T name[]; written so that kernels of different T can share a file.
#define GPU_DYNAMIC_SHARED(T, name) \
  T* name = reinterpret_cast<T*>(::cuda_emulator::shared_memory->dynamic())
