// What bind.cpp offers to test_emulator.py. Arrays are passed as addresses of numpy's memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace selftest {

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// warp.cu
void shuffle(const std::string& kind, const std::string& dtype, std::uintptr_t values,
             std::uintptr_t offsets, std::uintptr_t out, int threads, unsigned mask, int width);
void vote(std::uintptr_t predicates, std::uintptr_t out, int threads, unsigned split);
void active_lanes(std::uintptr_t out, int first);
void warp_handover(std::uintptr_t out, bool synchronise);

// block.cu
std::vector<unsigned> indices(std::vector<unsigned> grid, std::vector<unsigned> block);
void block_votes(std::uintptr_t predicates, std::uintptr_t out, int threads);
void block_sum(std::uintptr_t values, std::uintptr_t out, int n, int blocks, int threads);
void reverse(std::uintptr_t values, std::uintptr_t out, int threads, bool synchronise);
void shared_garbage(std::uintptr_t out, int blocks);
void block_order(std::uintptr_t out, int blocks);
void last_block(std::uintptr_t values, std::uintptr_t out, std::uintptr_t counter, int blocks);
void spin_for_neighbour(std::uintptr_t out, int threads);

// atomics.cu
void atomic_32(const std::string& name, bool is_signed, std::uintptr_t target,
               std::uintptr_t values, std::uintptr_t old, int threads);
void atomic_64(const std::string& name, bool is_signed, std::uintptr_t target,
               std::uintptr_t values, std::uintptr_t old, int threads);
void atomic_float(const std::string& dtype, std::uintptr_t target, std::uintptr_t values,
                  int threads);
void locked_increments(std::uintptr_t lock, std::uintptr_t counter, int blocks, int threads);

// functions.cu
std::vector<std::uint64_t> integer_functions(std::uint64_t x, std::uint64_t y);
std::vector<double> float_functions(float x, float y, float z);
std::vector<double> min_max(float x, float y, int i, unsigned u);
void copy_float4(std::uintptr_t from, std::uintptr_t to, int offset, int n);
std::vector<std::size_t> alignments();
float constants(float a, float b);

// faults.cu
void fault(const std::string& name, std::uintptr_t out);
int destructors_run();

// runtime.cu
int launch(std::vector<unsigned> grid, std::vector<unsigned> block, std::size_t shared_bytes,
           bool clear);
int peek();
int last();
std::string error_string(int code);
int allow_shared_bytes(int bytes);
int opted_in_launch(std::size_t shared_bytes);
int static_and_dynamic(std::size_t shared_bytes);
int big_parameter(std::uintptr_t out);
std::vector<int> device(int device);
int attribute(int attribute, int device);
int occupancy(int threads, std::size_t shared_bytes);
std::vector<int> copies(int n);

}  // namespace selftest
