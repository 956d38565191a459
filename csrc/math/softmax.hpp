// The weights of attention search, a_i = exp(-beta L_i) / sum_j exp(-beta L_j), one candidate after
// the other: sums are kept relative to the best score so far and rescaled when a better one turns
// up (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018). A loss that is NaN
// or infinite has no weight.
#pragma once
#include "math/elementary.hpp"

namespace unstuck {

struct OnlineSoftmax {
  double best = 0;             // the highest score, -beta L
  double sum = 0, square = 0;  // of exp(scale (score - best)), and of its square
  bool empty = true;
  double scale = 1;  // of the scores: beta where they are -L, and what they have in common cancels

  // What everything summed so far is to be multiplied by, now that scores up to `score` come.
  UNSTUCK_HD double raise(double score) {
    if (empty) {
      empty = false;
      best = score;
      return 0;
    }
    if (score <= best) return 1;
    const double factor = exp_negative(scaled_difference(scale, best, score));
    best = score;
    sum *= factor;
    square *= factor * factor;
    return factor;
  }
  // The weight of a score that is not above the best, not normalised.
  UNSTUCK_HD double weight(double score) const {
    return exp_negative(scaled_difference(scale, score, best));
  }
  UNSTUCK_HD void add(double score) {
    const double a = weight(score);
    sum += a;
    square += a * a;
  }
  // As if the other's scores had come here.
  UNSTUCK_HD void merge(const OnlineSoftmax& other) {
    if (other.empty) return;
    raise(other.best);
    const double factor = weight(other.best);
    sum += other.sum * factor;
    square += other.square * factor * factor;
  }
  UNSTUCK_HD double effective_size() const { return empty ? 0 : sum * sum / square; }
};

}  // namespace unstuck
