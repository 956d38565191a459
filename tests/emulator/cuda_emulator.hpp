// Compiles .cu files with a plain C++17 compiler and runs them on the CPU, for tests.
//
// Put this folder on the include path. What a kernel sees is in the files below; this one has the
// words of the language. A launch runs the blocks one after another on one thread, every CUDA
// thread a fiber (block.hpp), in an order that CUDA_EMULATOR_ORDER chooses (order.hpp), with
// garbage in shared memory (shared_memory.hpp).
//
// Not emulated: clusters, cooperative groups and grid-wide barriers, asynchronous copies, textures,
// dynamic parallelism, inline PTX, memory ordering, streams that overlap, graphs, printf's buffer.
// __launch_bounds__ is not checked, and a write to a __constant__ variable is not caught; nvcc
// catches most of the latter.
//
// Where it is stricter than a GPU: every thread of a block must reach every __syncthreads, those
// that could have returned early included, and all at the same line.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

// A parameter that no thread changes: `GPU_GRID_CONSTANT(Pack) pack`. A reference here, so that a
// large one is not copied onto the stack of every thread.
#define GPU_GRID_CONSTANT(T) const T&

#include "cuda_emulator/atomics.hpp"
#include "cuda_emulator/block.hpp"
#include "cuda_emulator/fiber.hpp"
#include "cuda_emulator/intrinsics.hpp"
#include "cuda_emulator/launch.hpp"
#include "cuda_emulator/order.hpp"
#include "cuda_emulator/runtime.hpp"
#include "cuda_emulator/shared_memory.hpp"
#include "cuda_emulator/vector_types.hpp"
#include "cuda_emulator/warp.hpp"
