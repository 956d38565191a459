#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "selftest.hpp"

PYBIND11_MODULE(emulator_selftest, m) {
  m.def("shuffle", &selftest::shuffle);
  m.def("vote", &selftest::vote);
  m.def("active_lanes", &selftest::active_lanes);
  m.def("warp_handover", &selftest::warp_handover);
  m.def("indices", &selftest::indices);
  m.def("block_votes", &selftest::block_votes);
  m.def("block_sum", &selftest::block_sum);
  m.def("reverse", &selftest::reverse);
  m.def("shared_garbage", &selftest::shared_garbage);
  m.def("block_order", &selftest::block_order);
  m.def("last_block", &selftest::last_block);
  m.def("spin_for_neighbour", &selftest::spin_for_neighbour);
  m.def("atomic_32", &selftest::atomic_32);
  m.def("atomic_64", &selftest::atomic_64);
  m.def("atomic_float", &selftest::atomic_float);
  m.def("locked_increments", &selftest::locked_increments);
  m.def("integer_functions", &selftest::integer_functions);
  m.def("float_functions", &selftest::float_functions);
  m.def("min_max", &selftest::min_max);
  m.def("copy_float4", &selftest::copy_float4);
  m.def("alignments", &selftest::alignments);
  m.def("constants", &selftest::constants);
  m.def("fault", &selftest::fault);
  m.def("destructors_run", &selftest::destructors_run);
  m.def("launch", &selftest::launch);
  m.def("peek", &selftest::peek);
  m.def("last", &selftest::last);
  m.def("error_string", &selftest::error_string);
  m.def("allow_shared_bytes", &selftest::allow_shared_bytes);
  m.def("opted_in_launch", &selftest::opted_in_launch);
  m.def("static_and_dynamic", &selftest::static_and_dynamic);
  m.def("big_parameter", &selftest::big_parameter);
  m.def("device", &selftest::device);
  m.def("attribute", &selftest::attribute);
  m.def("occupancy", &selftest::occupancy);
  m.def("copies", &selftest::copies);
}
