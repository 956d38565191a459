// Whether an optimizer stands still, told from its last gradient norms and losses. All of it lives
// in one vector of doubles on the device of the parameters, and nobody waits for it.
//
// Absolute tests: the mean absolute change from one value to the next, over the window, is below
// the threshold. Relative tests: for norms, that mean is below threshold times the mean norm; for
// losses, the fall from the older half of the window to the newer one, and twice its standard
// error, are together below threshold times the mean size of the newer half: the loss is flat
// beyond doubt. A loss decides alone where relative tests have a full window of them.
#pragma once
#include <cstdint>

#include "math/elementary.hpp"

namespace unstuck {

enum StagnationSlot {
  kSeenNorms,      // norms seen since the windows were last emptied
  kFlatSteps,      // steps in a row whose tests said: flat
  kStagnantSteps,  // steps at which that many were enough
  kLastNorm,       // the last gradient norm
  kNormChange,     // its mean absolute change over the window
  kLastLoss,       // the last loss
  kLossWaits,      // not zero: kLastLoss has been written and not yet taken in
  kSeenLosses,     // losses seen since the windows were last emptied
  kLossChange,     // mean absolute change (absolute), or fall and twice its error (relative)
  kGradSquares,    // sum of squared gradients so far
  kTotalSteps,     // steps in all
  kBestLoss,       // the lowest loss
  kHasBest,        // not zero: there is one
  kStagnationHeader
};

struct StagnationConfig {
  int32_t norm_window, loss_window, patience;
  double norm_threshold, loss_threshold;  // a loss threshold below 0: no such test
  bool relative;
};

UNSTUCK_HD int64_t stagnation_size(const StagnationConfig& c) {
  return int64_t(kStagnationHeader) + c.norm_window + c.loss_window;
}

// The mean absolute change over a full ring whose oldest value is at `first`.
UNSTUCK_HD double mean_change(const double* ring, int first, int n) {
  double sum = 0;
  for (int i = 1; i < n; ++i) {
    const double step = ring[(first + i) % n] - ring[(first + i - 1) % n];
    sum += step < 0 ? -step : step;
  }
  return sum / (n - 1);
}

struct Half {
  double mean, squares;  // squares: the sum of squared deviations from the mean
};
UNSTUCK_HD Half half_of(const double* ring, int first, int n, int from, int to) {
  double sum = 0, squares = 0;
  for (int i = from; i < to; ++i) sum += ring[(first + i) % n];
  const double mean = sum / (to - from);
  for (int i = from; i < to; ++i) {
    const double d = ring[(first + i) % n] - mean;
    squares += d * d;
  }
  return {mean, squares};
}

// A count that was kept as a double, whatever has been written there since.
UNSTUCK_HD int64_t count_of(double x) { return x >= 0 && x < 9e15 ? int64_t(x) : 0; }

// Takes in the sum of squared gradients, and the loss that waits; counts, and tests.
UNSTUCK_HD void track(double* s, const StagnationConfig& c) {
  double* norms = s + kStagnationHeader;
  double* losses = norms + c.norm_window;
  const int64_t steps = count_of(s[kSeenNorms]);
  const double norm = square_root(s[kGradSquares]);
  norms[steps % c.norm_window] = s[kLastNorm] = norm;
  s[kSeenNorms] = double(steps + 1);
  s[kGradSquares] = 0;
  s[kTotalSteps] += 1;
  int64_t seen = count_of(s[kSeenLosses]);
  const bool told = s[kLossWaits] != 0;
  if (told) {
    losses[seen % c.loss_window] = s[kLastLoss];
    s[kSeenLosses] = double(++seen);
    s[kLossWaits] = 0;
    if (s[kHasBest] == 0 || s[kLastLoss] < s[kBestLoss]) s[kBestLoss] = s[kLastLoss];
    s[kHasBest] = 1;
  }
  bool flat = steps + 1 >= c.norm_window;
  if (flat) {
    const int first = int((steps + 1) % c.norm_window);
    s[kNormChange] = mean_change(norms, first, c.norm_window);
    double scale = 1;
    if (c.relative) {
      scale = 0;
      for (int i = 0; i < c.norm_window; ++i) scale += norms[i];
      scale /= c.norm_window;
    }
    flat = s[kNormChange] <= c.norm_threshold * scale;
  }
  if (c.loss_threshold >= 0 && seen >= c.loss_window) {
    const int first = int(seen % c.loss_window), n = c.loss_window;
    if (c.relative) {
      const Half older = half_of(losses, first, n, 0, n / 2);
      const Half newer = half_of(losses, first, n, n / 2, n);
      const double variance = (older.squares + newer.squares) / (n - 2);
      const double error = square_root(variance * (1.0 / (n / 2) + 1.0 / (n - n / 2)));
      s[kLossChange] = older.mean - newer.mean + 2 * error;
      flat = s[kLossChange] <= c.loss_threshold * (newer.mean < 0 ? -newer.mean : newer.mean);
    } else {
      s[kLossChange] = mean_change(losses, first, n);
      flat = flat && s[kLossChange] <= c.loss_threshold;
    }
  } else if (c.loss_threshold >= 0 && !c.relative) {
    flat = false;  // both tests are asked for
  } else if (c.relative && seen > 0) {
    flat = false;  // losses decide, once there are enough
  }
  s[kFlatSteps] = flat ? s[kFlatSteps] + 1 : 0;
  if (s[kFlatSteps] >= c.patience) s[kStagnantSteps] += 1;
}

}  // namespace unstuck
