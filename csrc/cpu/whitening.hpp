// Whitening of gradients as matrices: a product from each side, and means of G G^T and G^T G.
#pragma once
#include <cstdint>
#include <vector>

namespace unstuck::cpu {

// One matrix of one or several students, and what is kept of it.
struct WhitenedMatrix {
  // One side: null, and n of no use, where it is left as it is.
  struct Side {
    float* mean;        // [students, n, n]
    const float* root;  // [students, n, n], symmetric
    int64_t n;
  };
  const float* g;  // [students, rows, columns], students `stride` apart
  float* out;      // [students, rows, columns]; null: the means look only
  Side rows, columns;
  int64_t students, row_count, column_count, stride;
  double weight;  // of this gradient in the means; 0 leaves them alone
  double share;   // of its products that they see: less than 1 where it is a multiple
};

// out = rows.root g columns.root, and the means move towards g g^T and g^T g, unless g is not
// finite.
void whiten(const std::vector<WhitenedMatrix>& matrices, int threads);

}  // namespace unstuck::cpu
