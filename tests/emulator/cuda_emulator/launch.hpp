// Launching a kernel: the checks of the CUDA runtime, then every block, one after another.
#pragma once
#include <cstddef>
#include <exception>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_emulator/block.hpp"
#include "cuda_emulator/order.hpp"
#include "cuda_emulator/runtime.hpp"
#include "cuda_emulator/shared_memory.hpp"

namespace cuda_emulator {

constexpr std::size_t kParameterBytes = CUDART_VERSION >= 12010 ? 32764 : 4096;

// The bytes that parameters take, each at its own alignment.
template <class... Values>
constexpr std::size_t parameter_bytes() {
  std::size_t offset = 0;
  ((offset = (offset + alignof(Values) - 1) / alignof(Values) * alignof(Values) + sizeof(Values)),
   ...);
  return offset;
}

struct Launch {
  const char* name;
  const void* kernel;
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes;
  void (*body)(void*);  // calls the kernel
  void* argument;

  cudaError_t check() const {
    const auto between = [](unsigned value, unsigned most) { return value >= 1 && value <= most; };
    if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
    if (device_status() != cudaSuccess) return device_status();
    if (!between(grid.x, kMaxGridX) || !between(grid.y, max_grid_yz()) ||
        !between(grid.z, max_grid_yz()) || !between(block.x, kMaxThreads) ||
        !between(block.y, kMaxThreads) || !between(block.z, kMaxBlockZ) ||
        !between(block.x * block.y * block.z, kMaxThreads)) {
      return cudaErrorInvalidConfiguration;
    }
    if (shared_bytes > shared_memory_limits.of(kernel)) return cudaErrorInvalidValue;
    return cudaSuccess;
  }

  // Runs the grid on the calling thread.
  void run() const {
    Order order = Order::from_environment();
    try {
      run_blocks(order);
    } catch (const KernelError& error) {
      throw KernelError("cuda emulator: kernel " + std::string(name) + ", order " + order.text() +
                        ": " + error.what());
    }
  }

 private:
  void run_blocks(Order& order) const {
    SharedMemory memory(shared_bytes);
    shared_memory = &memory;
    gridDim = grid;
    blockDim = this->block;
    cuda_emulator::block.prepare(body, argument, &order);
    std::vector<std::size_t> numbers(std::size_t{grid.x} * grid.y * grid.z);
    order.arrange(numbers.data(), numbers.size());
    for (const std::size_t number : numbers) {
      blockIdx = {static_cast<unsigned>(number % grid.x),
                  static_cast<unsigned>(number / grid.x % grid.y),
                  static_cast<unsigned>(number / grid.x / grid.y)};
      memory.fill_with_garbage();
      cuda_emulator::block.run();
      if (memory.overrun()) {
        throw KernelError("block " + Block::show(blockIdx) + " wrote past its " +
                          std::to_string(shared_bytes) + " bytes of dynamic shared memory");
      }
      if (number == numbers.front()) check_static(memory);
    }
  }

  // The launch itself cannot know how much the __shared__ variables take; what the block wrote
  // tells. nvcc refuses a kernel whose variables alone are over the limit.
  void check_static(const SharedMemory& memory) const {
    const std::size_t asked = shared_memory_limits.of(kernel);
    const std::size_t most = asked > kSharedBytesDefault ? kSharedBytesOptIn : kSharedBytesDefault;
    const std::size_t used = memory.static_bytes_written() + shared_bytes;
    if (used <= most) return;
    throw KernelError("uses at least " + std::to_string(used) + " bytes of shared memory, " +
                      std::to_string(shared_bytes) + " of them dynamic; a block has " +
                      std::to_string(most));
  }
};

inline std::mutex launch_mutex;  // one grid at a time

// On a thread of its own, for the sake of the shared memory (see there).
inline void run_on_own_thread(const Launch& launch) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  std::exception_ptr error;
  std::thread([&] {
    try {
      launch.run();
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
}

// What GPU_LAUNCH does here. A bad configuration is told by cudaGetLastError, as on a GPU; what a
// kernel does wrong, or throws, is thrown to the caller, which a GPU cannot do.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, cudaStream_t, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "wrong number of arguments");
  static_assert((std::is_trivially_copyable_v<std::decay_t<Parameters>> && ...),
                "a kernel parameter must be trivially copyable");
  static_assert(
      ((!std::is_reference_v<Parameters> || std::is_const_v<std::remove_reference_t<Parameters>>) &&
       ...),
      "a kernel cannot take a reference (GPU_GRID_CONSTANT aside)");
  static_assert(parameter_bytes<std::decay_t<Parameters>...>() <= kParameterBytes,
                "kernel parameters take more bytes than this CUDA toolkit allows");
  using Values = std::tuple<std::decay_t<Parameters>...>;
  struct Call {
    void (*kernel)(Parameters...);
    Values values;
  } call{kernel, Values(std::forward<Arguments>(arguments)...)};
  const auto body = [](void* argument) {
    Call& self = *static_cast<Call*>(argument);
    std::apply(self.kernel, self.values);
  };
  const Launch what{name, address(kernel), grid, block, shared_bytes, body, &call};
  if (report(what.check()) == cudaSuccess) run_on_own_thread(what);
}

}  // namespace cuda_emulator

#define GPU_LAUNCH(kernel, grid, block, shared_bytes, ...) \
  ::cuda_emulator::launch(#kernel, kernel, grid, block, shared_bytes, __VA_ARGS__)
