// Compiler switches, each behind one name.
#pragma once

// UNSTUCK_HD: a formula that is compiled for the host and for the device.
#if defined(__CUDACC__)
#define UNSTUCK_HD __host__ __device__ __forceinline__
#else
#define UNSTUCK_HD inline __attribute__((always_inline))
#endif

#define UNSTUCK_INLINE inline __attribute__((always_inline))

// UNSTUCK_CLONES: one binary, three instruction sets, chosen by the loader. Put it on plain
// functions whose bodies are UNSTUCK_INLINE; elsewhere than g++ on x86-64 glibc it is nothing.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && \
    !defined(__clang__) && __GNUC__ >= 12 && !defined(UNSTUCK_NO_CLONES)
#define UNSTUCK_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define UNSTUCK_HAS_CLONES 1
#else
#define UNSTUCK_CLONES
#define UNSTUCK_HAS_CLONES 0
#endif
