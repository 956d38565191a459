// CUDA's built-in vector types, with CUDA's alignment, and their make_ functions.
#pragma once

#define CUDA_EMULATOR_VECTOR2(name, scalar) \
  struct alignas(2 * sizeof(scalar)) name { \
    scalar x, y;                            \
  };                                        \
  constexpr name make_##name(scalar x, scalar y) { return {x, y}; }

#define CUDA_EMULATOR_VECTOR3(name, scalar) \
  struct name {                             \
    scalar x, y, z;                         \
  };                                        \
  constexpr name make_##name(scalar x, scalar y, scalar z) { return {x, y, z}; }

#define CUDA_EMULATOR_VECTOR4(name, scalar) \
  struct alignas(4 * sizeof(scalar)) name { \
    scalar x, y, z, w;                      \
  };                                        \
  constexpr name make_##name(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

#define CUDA_EMULATOR_VECTORS(name, scalar) \
  CUDA_EMULATOR_VECTOR2(name##2, scalar)    \
  CUDA_EMULATOR_VECTOR3(name##3, scalar)    \
  CUDA_EMULATOR_VECTOR4(name##4, scalar)

CUDA_EMULATOR_VECTORS(char, signed char)
CUDA_EMULATOR_VECTORS(uchar, unsigned char)
CUDA_EMULATOR_VECTORS(short, short)
CUDA_EMULATOR_VECTORS(ushort, unsigned short)
CUDA_EMULATOR_VECTORS(int, int)
CUDA_EMULATOR_VECTORS(uint, unsigned int)
CUDA_EMULATOR_VECTORS(float, float)

// Of these, vectors of four are deprecated in CUDA 13: their alignment changes.
CUDA_EMULATOR_VECTOR2(longlong2, long long)
CUDA_EMULATOR_VECTOR3(longlong3, long long)
CUDA_EMULATOR_VECTOR2(ulonglong2, unsigned long long)
CUDA_EMULATOR_VECTOR3(ulonglong3, unsigned long long)
CUDA_EMULATOR_VECTOR2(double2, double)
CUDA_EMULATOR_VECTOR3(double3, double)

#undef CUDA_EMULATOR_VECTORS
#undef CUDA_EMULATOR_VECTOR4
#undef CUDA_EMULATOR_VECTOR3
#undef CUDA_EMULATOR_VECTOR2

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
      : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
