#pragma once
#include "math/philox.hpp"

namespace unstuck::cpu {

// How Philox is computed; the integers are the same.
enum class NoiseForm : int { scalar, avx2, avx512 };
NoiseForm best_noise_form();

// Words of one candidate: coordinates [64 group, 64 (group + groups)) to `out`.
void noise_row(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t group,
               int64_t groups, uint32_t* out);
// Words of sixteen candidates beside each other, coordinates [0, 64 groups): `out` [64 groups, 16].
void noise_column(NoiseForm form, const NoiseKey& noise, uint32_t candidate, int64_t groups,
                  uint32_t* out);

// Normals of whole groups of words, in place of them: words of a row, or of a column.
void normals_row(const uint32_t* words, int64_t groups, float* out);
void normals_column(const uint32_t* words, int64_t groups, float* out);

}  // namespace unstuck::cpu
