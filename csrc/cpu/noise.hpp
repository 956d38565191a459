#pragma once
#include "math/philox.hpp"

namespace unstuck::cpu {

// How Philox is computed; the integers are the same.
enum class NoiseForm : int { scalar, avx2, avx512 };
NoiseForm best_noise_form();

// Words of one candidate: coordinates [64 group, 64 (group + groups)) to `out`.
void noise_row(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t group,
               int64_t groups, uint32_t* out);

// Normals of one candidate, coordinates [64 group, 64 group + n). `words` and `out` have room for
// whole groups.
void normals_row(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t group,
                 int64_t n, uint32_t* words, float* out);
// Normals of sixteen candidates beside each other: `out` [n, 16], with room for whole groups.
void normals_column(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t n,
                    uint32_t* words, float* out);

}  // namespace unstuck::cpu
