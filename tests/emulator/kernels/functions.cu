// Device functions, vector types and constant memory.
#include "core/gpu.hpp"
#include "selftest.hpp"

namespace selftest {
namespace {

__global__ void integer_kernel(unsigned long long x, unsigned long long y,
                               unsigned long long* out) {
  const unsigned a = static_cast<unsigned>(x), b = static_cast<unsigned>(y);
  int i = 0;
  out[i++] = static_cast<unsigned>(__popc(a));
  out[i++] = static_cast<unsigned>(__popcll(x));
  out[i++] = static_cast<unsigned>(__clz(static_cast<int>(a)));
  out[i++] = static_cast<unsigned>(__clzll(static_cast<long long>(x)));
  out[i++] = static_cast<unsigned>(__ffs(static_cast<int>(a)));
  out[i++] = static_cast<unsigned>(__ffsll(static_cast<long long>(x)));
  out[i++] = __brev(a);
  out[i++] = __umulhi(a, b);
  out[i++] = static_cast<unsigned>(__mulhi(static_cast<int>(a), static_cast<int>(b)));
  out[i++] = __umul64hi(x, y);
}

__global__ void float_kernel(float x, float y, float z, double* out) {
  int i = 0;
  out[i++] = __fmaf_rn(x, y, z);
  out[i++] = __fma_rn(x, y, z);
  out[i++] = __fadd_rn(x, y);
  out[i++] = __fsub_rn(x, y);
  out[i++] = __fmul_rn(x, y);
  out[i++] = __fdiv_rn(x, y);
  out[i++] = __fdividef(x, y);
  out[i++] = __frcp_rn(x);
  out[i++] = __fsqrt_rn(x);
  out[i++] = rsqrtf(x);
  out[i++] = rsqrt(static_cast<double>(x));
  out[i++] = __expf(x);
  out[i++] = __logf(x);
  out[i++] = __log2f(x);
  out[i++] = __powf(x, y);
  out[i++] = __sinf(x);
  out[i++] = __cosf(x);
  out[i++] = __saturatef(x);
  out[i++] = __uint_as_float(__float_as_uint(x));
  out[i++] = __int_as_float(__float_as_int(y));
  out[i++] = __longlong_as_double(__double_as_longlong(static_cast<double>(z)));
  out[i++] = __float_as_uint(x);
  out[i++] = sqrt(x);  // of a float, in float
}

__global__ void min_max_kernel(float x, float y, int i, unsigned u, double* out) {
  out[0] = min(x, y);
  out[1] = max(x, y);
  out[2] = min(static_cast<double>(x), y);
  out[3] = max(i, -i);
  out[4] = min(i, u);  // as unsigned
  out[5] = static_cast<double>(max(static_cast<long long>(i), 7LL));
}

__global__ void copy_kernel(const float* from, float* to, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const float4 v = __ldcs(reinterpret_cast<const float4*>(from) + i);
  __stcs(reinterpret_cast<float4*>(to) + i, make_float4(v.w, v.z, v.y, v.x));
}

__constant__ float coefficients[2];

__global__ void constant_kernel(float* out) { *out = 10.0f * coefficients[0] + coefficients[1]; }

}  // namespace

std::vector<std::uint64_t> integer_functions(std::uint64_t x, std::uint64_t y) {
  unsigned long long out[10];
  GPU_LAUNCH(integer_kernel, 1, 1, 0, nullptr, x, y, out);
  return {out, out + 10};
}

std::vector<double> float_functions(float x, float y, float z) {
  std::vector<double> out(23);
  GPU_LAUNCH(float_kernel, 1, 1, 0, nullptr, x, y, z, out.data());
  return out;
}

std::vector<double> min_max(float x, float y, int i, unsigned u) {
  std::vector<double> out(6);
  GPU_LAUNCH(min_max_kernel, 1, 1, 0, nullptr, x, y, i, u, out.data());
  return out;
}

void copy_float4(std::uintptr_t from, std::uintptr_t to, int offset, int n) {
  GPU_LAUNCH(copy_kernel, (n + 31) / 32, 32, 0, nullptr, pointer<const float>(from) + offset,
             pointer<float>(to), n);
}

std::vector<std::size_t> alignments() {
  return {alignof(float2), alignof(float3),     alignof(float4),  alignof(double2), alignof(int4),
          alignof(uint2),  alignof(ulonglong2), alignof(ushort4), alignof(uchar4),  sizeof(float3)};
}

float constants(float a, float b) {
  const float values[2] = {a, b};
  cudaMemcpyToSymbol(coefficients, values, sizeof(float));
  cudaMemcpyToSymbol(coefficients, values + 1, sizeof(float), sizeof(float));
  float out = 0;
  GPU_LAUNCH(constant_kernel, 1, 1, 0, nullptr, &out);
  return out;
}

}  // namespace selftest
