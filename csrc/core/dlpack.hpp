// The part of the DLPack 1.x C ABI that reading a tensor needs. Same major version = compatible.
#pragma once
#include <cstdint>

namespace unstuck::dlpack {

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBFloat = 4, kComplex = 5 };

struct Version {
  uint32_t major, minor;
};
struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means row-major
  uint64_t byte_offset;
};
// The capsule "dlpack_exchange_api" that a tensor type offers.
struct ExchangeAPI {
  Version version;
  ExchangeAPI* prev;  // an older version of this table
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  int (*dltensor_from_py_object)(void* py_object, Tensor* out);  // borrows, owns nothing
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** out);
};

}  // namespace unstuck::dlpack
