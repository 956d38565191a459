// The part of the CUDA runtime API that launch code needs. Device pointers are host pointers,
// streams are ignored because everything has happened when a call returns.
//
// CUDA_EMULATOR_GRID_YZ = how many blocks a grid may have along y and z (65535): with fewer, a
// small test shows what a large one would.
//
// CUDA_EMULATOR_DEVICES = how many devices there are (1). A negative number is an error code that
// stands for a machine without a working driver: -35, a driver that is too old.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "cuda_emulator/shared_memory.hpp"

// The toolkit that is emulated; from 12.1 on, kernels take 32,764 bytes of parameters.
#if !defined(CUDART_VERSION)
#define CUDART_VERSION 12080
#endif

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorUnknown = 999
};

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxBlockDimX = 2,
  cudaDevAttrMaxBlockDimY = 3,
  cudaDevAttrMaxBlockDimZ = 4,
  cudaDevAttrMaxGridDimX = 5,
  cudaDevAttrMaxGridDimY = 6,
  cudaDevAttrMaxGridDimZ = 7,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

using cudaStream_t = struct CUstream_st*;

namespace cuda_emulator {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxBlockZ = 64;
constexpr unsigned kMaxGridX = 0x7fffffffu;
inline unsigned max_grid_yz() {
  const char* text = std::getenv("CUDA_EMULATOR_GRID_YZ");
  return text == nullptr ? 65535 : static_cast<unsigned>(std::atoi(text));
}
constexpr int kMultiprocessors = 3;  // not a power of two, so that nobody counts on one

inline thread_local cudaError_t last_error = cudaSuccess;
inline thread_local int current_device = 0;

// Like the runtime, remembers the last failure until somebody asks for it.
inline cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

inline int device_count() {
  const char* text = std::getenv("CUDA_EMULATOR_DEVICES");
  return text == nullptr ? 1 : std::atoi(text);
}

// What every call says on a machine without a device.
inline cudaError_t device_status() {
  const int count = device_count();
  if (count > 0) return cudaSuccess;
  return count == 0 ? cudaErrorNoDevice : static_cast<cudaError_t>(-count);
}

// Kernels that cudaFuncSetAttribute allows more dynamic shared memory than the default.
class SharedMemoryLimits {
 public:
  void set(const void* kernel, std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limits_[kernel] = bytes;
  }
  std::size_t of(const void* kernel) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = limits_.find(kernel);
    return found == limits_.end() ? kSharedBytesDefault : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<const void*, std::size_t> limits_;
};
inline SharedMemoryLimits shared_memory_limits;

template <class... Parameters>
const void* address(void (*kernel)(Parameters...)) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace cuda_emulator

// --- errors ---

inline cudaError_t cudaPeekAtLastError() { return cuda_emulator::last_error; }

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_emulator::last_error;
  cuda_emulator::last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInitializationError:
      return "initialization error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorUnknown:
      return "unknown error";
  }
  return "unrecognized error code";
}

// --- devices ---

inline cudaError_t cudaGetDeviceCount(int* count) {
  if (count == nullptr) return cuda_emulator::report(cudaErrorInvalidValue);
  const cudaError_t status = cuda_emulator::device_status();
  *count = status == cudaSuccess ? cuda_emulator::device_count() : 0;
  return cuda_emulator::report(status);
}

inline cudaError_t cudaGetDevice(int* device) {
  if (device == nullptr) return cuda_emulator::report(cudaErrorInvalidValue);
  const cudaError_t status = cuda_emulator::device_status();
  if (status == cudaSuccess) *device = cuda_emulator::current_device;
  return cuda_emulator::report(status);
}

inline cudaError_t cudaSetDevice(int device) {
  using namespace cuda_emulator;
  if (device_status() != cudaSuccess) return report(device_status());
  if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  using namespace cuda_emulator;
  if (value == nullptr) return report(cudaErrorInvalidValue);
  if (device_status() != cudaSuccess) return report(device_status());
  if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      *value = static_cast<int>(kMaxThreads);
      break;
    case cudaDevAttrMaxBlockDimZ:
      *value = static_cast<int>(kMaxBlockZ);
      break;
    case cudaDevAttrMaxGridDimX:
      *value = static_cast<int>(kMaxGridX);
      break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *value = static_cast<int>(max_grid_yz());
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = kSharedBytesDefault;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kSharedBytesOptIn;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = kMultiprocessors;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 4 << 20;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    default:
      return report(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

inline cudaError_t cudaRuntimeGetVersion(int* version) {
  if (version == nullptr) return cuda_emulator::report(cudaErrorInvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

inline cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

// --- memory ---

template <class T>
cudaError_t cudaMalloc(T** pointer, std::size_t bytes) {
  if (pointer == nullptr) return cuda_emulator::report(cudaErrorInvalidValue);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  constexpr std::size_t kAlignment = 256;
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes) != 0) {
    return cuda_emulator::report(cudaErrorMemoryAllocation);
  }
  std::memset(memory, cuda_emulator::kGarbage, bytes);
  *pointer = static_cast<T*>(memory);
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t = nullptr) {
  if (bytes == 0) return cudaSuccess;
  if (to == nullptr || from == nullptr) return cuda_emulator::report(cudaErrorInvalidValue);
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind);
}

template <class Symbol>
cudaError_t cudaMemcpyToSymbol(Symbol& symbol, const void* from, std::size_t bytes,
                               std::size_t offset = 0,
                               cudaMemcpyKind kind = cudaMemcpyHostToDevice) {
  if (offset > sizeof(Symbol) || bytes > sizeof(Symbol) - offset) {
    return cuda_emulator::report(cudaErrorInvalidValue);
  }
  return cudaMemcpyAsync(reinterpret_cast<char*>(&symbol) + offset, from, bytes, kind);
}

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t = nullptr) {
  if (bytes == 0) return cudaSuccess;
  if (to == nullptr) return cuda_emulator::report(cudaErrorInvalidValue);
  std::memset(to, value, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return cudaMemsetAsync(to, value, bytes);
}

// --- kernels ---

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value) {
  using namespace cuda_emulator;
  if (kernel == nullptr) return report(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;  // a hint
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return report(cudaErrorInvalidValue);
  }
  if (value < 0 || static_cast<std::size_t>(value) > kSharedBytesOptIn) {
    return report(cudaErrorInvalidValue);
  }
  shared_memory_limits.set(address(kernel), static_cast<std::size_t>(value));
  return cudaSuccess;
}

template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks,
                                                          void (*kernel)(Parameters...),
                                                          int threads, std::size_t shared_bytes) {
  using namespace cuda_emulator;
  if (blocks == nullptr || kernel == nullptr || threads < 1) return report(cudaErrorInvalidValue);
  constexpr int kThreads = 2048, kBlocks = 32;
  const bool fits = threads <= static_cast<int>(kMaxThreads) &&
                    shared_bytes <= shared_memory_limits.of(address(kernel));
  int most = std::min(kBlocks, kThreads / threads);
  if (shared_bytes > 0) most = std::min(most, static_cast<int>(kSharedBytesOptIn / shared_bytes));
  *blocks = fits ? most : 0;
  return cudaSuccess;
}
