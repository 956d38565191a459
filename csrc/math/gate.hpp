// The gate: a small network that sets alpha from a few statistics of the step, and is itself
// trained by the hypergradient. Everything it knows lies in one float64 vector, so that it lives on
// the device of the parameters, is saved with them, and is updated without a host sync.
//
//   phi   = features of the last step                          [kFeatures]
//   h     = relu(W1 phi + b1)                                  [hidden]
//   alpha = sigmoid(w2 . h + b2)
//
// The vector, in order:
//   header                  kHeader numbers, see GateHeader
//   network                 W1 [hidden, kFeatures], b1 [hidden], w2 [hidden], b2     -> P numbers
//   Adam of the network     exp_avg [P], exp_avg_sq [P]
//   scratch                 gradient [P], activations [hidden]
//   units                   `units` records of kUnit numbers, see GateUnit
// A unit is what shares one alpha: a parameter group, or one tensor of it.
#pragma once
#include "math/blend.hpp"

namespace unstuck {

enum GateHeader {
  kSteps,      // steps taken
  kMetaSteps,  // updates of the network
  kLoss,       // loss recorded since the last step, NaN when none was
  kLossFast,   // its running means
  kLossSlow,
  kHasLoss,
  kPrevValid,  // whether the rates of the previous step follow
  kPrevLr,
  kPrevSgdLr,
  kPrevBeta1,
  kPrevBeta2,
  kPrevEps,
  kPrevDecay,
  kHeader = 16
};
enum GateFeature {
  kCosGradSgd,   // cosine of gradient and SGD direction
  kCosGradAdam,  // of gradient and Adam direction
  kCosSgdAdam,   // of the two directions
  kGradTrend,    // log of the gradient norm over its running mean, within +-3
  kCoherence,    // norm of the SGD direction times (1 - momentum), over the same mean, at most 3
  kAdamRms,      // root mean square of the Adam direction, at most 3
  kHyperCos,     // cosine of the gradient and the previous u_adam - u_sgd
  kLossTrend,    // fast over slow running mean of the loss, minus 1, within +-1
  kProgress,     // share of total_steps, or t / (t + 1000)
  kFeatures
};
enum GateUnit {
  kAlpha,                       // for the next step
  kAlphaPrev,                   // of the last step
  kHypergrad,                   // dL'/dalpha of the step before, by the last gradient
  kGradMean,                    // running mean of the gradient norm
  kDiffNormSq,                  // |u_adam - u_sgd|^2 of the last step
  kNumel,                       // elements in this unit
  kPhiPrev,                     // features that gave kAlphaPrev
  kPhi = kPhiPrev + kFeatures,  // features that gave kAlpha
  kUnit = kPhi + kFeatures
};

struct GateConfig {
  int hidden, units;
  bool learn;      // update the network from this step's hypergradient
  bool normalize;  // divide the hypergradient by |g'| |u_adam - u_sgd|
  double lr, total_steps;
};

// The threads that work on one gate: one on the CPU, a block on the GPU.
struct SingleThread {
  static constexpr int rank = 0, size = 1;
  void sync() const {}
};

UNSTUCK_HD int gate_parameters(int hidden) { return hidden ? hidden * (kFeatures + 2) + 1 : 0; }
UNSTUCK_HD int gate_units_offset(int hidden) {
  return kHeader + 4 * gate_parameters(hidden) + hidden;
}
UNSTUCK_HD int64_t gate_size(int hidden, int64_t units) {
  return gate_units_offset(hidden) + units * kUnit;
}
UNSTUCK_HD double* gate_unit(double* gate, int hidden, int64_t unit) {
  return gate + gate_units_offset(hidden) + unit * kUnit;
}
UNSTUCK_HD double clamp(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}
UNSTUCK_HD double cosine(double dot, double xx, double yy) {
  const double norms = square_root(xx) * square_root(yy);
  return norms > 0 ? clamp(dot / norms, -1.0, 1.0) : 0.0;
}

// alpha for features phi; leaves the hidden activations in `h` for gate_backward.
template <class Team>
UNSTUCK_HD double gate_forward(const double* net, int hidden, const double* phi, double* h,
                               const Team& team) {
  const double *b1 = net + hidden * kFeatures, *w2 = b1 + hidden;
  for (int j = team.rank; j < hidden; j += team.size) {
    double x = b1[j];
    for (int f = 0; f < kFeatures; ++f) x += net[j * kFeatures + f] * phi[f];
    h[j] = x > 0 ? x : 0;
  }
  team.sync();
  double logit = w2[hidden];  // b2
  for (int j = 0; j < hidden; ++j) logit += w2[j] * h[j];
  team.sync();
  return 1.0 / (1.0 + exp(-logit));
}

// Adds dL/dalpha * dalpha/dtheta to `grad`.
template <class Team>
UNSTUCK_HD void gate_backward(const double* net, int hidden, const double* phi, const double* h,
                              double alpha, double d_alpha, double* grad, const Team& team) {
  const double d_logit = d_alpha * alpha * (1.0 - alpha);
  const int b1 = hidden * kFeatures, w2 = b1 + hidden;
  for (int j = team.rank; j < hidden; j += team.size) {
    grad[w2 + j] += d_logit * h[j];
    if (h[j] <= 0) continue;
    const double d_h = d_logit * net[w2 + j];
    grad[b1 + j] += d_h;
    for (int f = 0; f < kFeatures; ++f) grad[j * kFeatures + f] += d_h * phi[f];
  }
  if (team.rank == 0) grad[w2 + hidden] += d_logit;
  team.sync();
}

// One Adam step of the network along the hypergradient of every unit. `sums` [units, kBlendSums].
template <class Team>
UNSTUCK_HD void gate_learn(double* gate, const GateConfig& config, const double* sums,
                           const Team& team) {
  const int hidden = config.hidden, P = gate_parameters(hidden);
  double *net = gate + kHeader, *exp_avg = net + P, *exp_avg_sq = exp_avg + P,
         *grad = exp_avg_sq + P, *h = grad + P;
  for (int i = team.rank; i < P; i += team.size) grad[i] = 0;
  team.sync();
  bool usable = true;
  for (int u = 0; u < config.units; ++u) {
    const double* unit = gate_unit(gate, hidden, u);
    const double* s = sums + int64_t(u) * kBlendSums;
    double d_alpha = -s[kHyper];
    if (config.normalize) {
      const double norms = square_root(s[kGG]) * square_root(unit[kDiffNormSq]);
      d_alpha = norms > 0 ? d_alpha / norms : 0.0;
    }
    usable = usable && d_alpha - d_alpha == 0;  // finite
    const double alpha = gate_forward(net, hidden, unit + kPhiPrev, h, team);
    gate_backward(net, hidden, unit + kPhiPrev, h, alpha, d_alpha, grad, team);
  }
  if (!usable) return;
  const double beta1 = 0.9, beta2 = 0.99, t = gate[kMetaSteps] + 1;
  const double c1 = bias_correction(beta1, t), c2 = bias_correction(beta2, t);
  for (int i = team.rank; i < P; i += team.size) {
    exp_avg[i] += (1 - beta1) * (grad[i] - exp_avg[i]);
    exp_avg_sq[i] = beta2 * exp_avg_sq[i] + (1 - beta2) * grad[i] * grad[i];
    net[i] -= config.lr * (exp_avg[i] / c1) / (square_root(exp_avg_sq[i] / c2) + 1e-12);
  }
  team.sync();
  if (team.rank == 0) gate[kMetaSteps] = t;
  team.sync();
}

// Sets every unit's alpha from its current features.
template <class Team>
UNSTUCK_HD void gate_decide(double* gate, const GateConfig& config, const Team& team) {
  const double* net = gate + kHeader;
  double* h = gate + kHeader + 4 * gate_parameters(config.hidden);
  for (int u = 0; u < config.units; ++u) {
    double* unit = gate_unit(gate, config.hidden, u);
    const double alpha = gate_forward(net, config.hidden, unit + kPhi, h, team);
    if (team.rank == 0) unit[kAlpha] = alpha;
  }
  team.sync();
}

// The features of one unit after a step, from its sums (bias-corrected).
UNSTUCK_HD void gate_features(double* gate, double* unit, const double* s, const BlendGroup& group,
                              const GateConfig& config) {
  for (int f = 0; f < kFeatures; ++f) unit[kPhiPrev + f] = unit[kPhi + f];
  double* phi = unit + kPhi;
  const double grad_norm = square_root(s[kGG]);
  double& mean = unit[kGradMean];
  const double before = mean > 0 ? mean : grad_norm;
  mean = before + 0.1 * (grad_norm - before);
  phi[kCosGradSgd] = cosine(s[kGD], s[kGG], s[kDD]);
  phi[kCosGradAdam] = cosine(s[kGA], s[kGG], s[kAA]);
  phi[kCosSgdAdam] = cosine(s[kDA], s[kDD], s[kAA]);
  phi[kGradTrend] = grad_norm > 0 && before > 0 ? clamp(log(grad_norm / before), -3.0, 3.0) : 0.0;
  phi[kCoherence] =
      before > 0 ? clamp((1 - group.momentum) * square_root(s[kDD]) / before, 0.0, 3.0) : 0.0;
  phi[kAdamRms] = unit[kNumel] > 0 ? clamp(square_root(s[kAA] / unit[kNumel]), 0.0, 3.0) : 0.0;
  phi[kHyperCos] = cosine(s[kHyper], s[kGG], unit[kDiffNormSq]);
  phi[kLossTrend] =
      gate[kLossSlow] != 0
          ? clamp((gate[kLossFast] - gate[kLossSlow]) / fabs(gate[kLossSlow]), -1.0, 1.0)
          : 0.0;
  const double t = gate[kSteps];
  phi[kProgress] =
      config.total_steps > 0 ? clamp(t / config.total_steps, 0.0, 1.0) : t / (t + 1000);
  for (int f = 0; f < kFeatures; ++f)
    if (phi[f] - phi[f] != 0) phi[f] = 0;  // NaN or infinite sums say nothing
  const double lr = group.rates.lr, sgd_lr = group.rates.sgd_lr;
  const double aa = lr * lr * s[kAA], dd = sgd_lr * sgd_lr * s[kDD];
  const double norm_sq = aa - 2 * lr * sgd_lr * s[kDA] + dd;
  // Updates that agree to a hundredth leave nothing to choose, and float32 sums too few digits.
  unit[kDiffNormSq] = norm_sq > 1e-4 * (aa + dd) ? norm_sq : 0.0;
}

// The end of a step: learn from the hypergradient, take in the statistics, set the next alpha.
template <class Team>
UNSTUCK_HD void gate_finish(double* gate, const BlendGroup& group, const GateConfig& config,
                            const double* sums, const Team& team) {
  const bool previous = gate[kPrevValid] != 0;
  if (previous && config.learn && config.hidden) gate_learn(gate, config, sums, team);
  team.sync();
  if (team.rank == 0) {
    gate[kSteps] += 1;
    const double loss = gate[kLoss];
    if (loss - loss == 0) {
      const bool has = gate[kHasLoss] != 0;
      gate[kLossFast] = has ? gate[kLossFast] + 0.1 * (loss - gate[kLossFast]) : loss;
      gate[kLossSlow] = has ? gate[kLossSlow] + 0.01 * (loss - gate[kLossSlow]) : loss;
      gate[kHasLoss] = 1;
    }
    gate[kLoss] = NAN;  // taken in
    const BlendRates& r = group.rates;
    gate[kPrevValid] = 1;
    gate[kPrevLr] = r.lr;
    gate[kPrevSgdLr] = r.sgd_lr;
    gate[kPrevBeta1] = r.beta1;
    gate[kPrevBeta2] = r.beta2;
    gate[kPrevEps] = r.eps;
    gate[kPrevDecay] = r.decay;
  }
  team.sync();
  for (int u = team.rank; u < config.units; u += team.size) {
    double* unit = gate_unit(gate, config.hidden, u);
    const double* s = sums + int64_t(u) * kBlendSums;
    if (previous) unit[kHypergrad] = -s[kHyper];
    gate_features(gate, unit, s, group, config);
    unit[kAlphaPrev] = unit[kAlpha];
  }
  team.sync();
  if (config.hidden) gate_decide(gate, config, team);
}

// Held-out mode: learn from a second batch's gradient, then set alpha anew.
template <class Team>
UNSTUCK_HD void gate_meta_step(double* gate, const GateConfig& config, const double* sums,
                               const Team& team) {
  if (gate[kPrevValid] == 0) return;
  if (config.hidden && config.learn) gate_learn(gate, config, sums, team);
  team.sync();
  for (int u = team.rank; u < config.units; u += team.size)
    gate_unit(gate, config.hidden, u)[kHypergrad] = -sums[int64_t(u) * kBlendSums + kHyper];
  team.sync();
  if (config.hidden) gate_decide(gate, config, team);
}

UNSTUCK_HD BlendRates gate_previous_rates(const double* gate) {
  return {gate[kPrevLr],    gate[kPrevSgdLr], gate[kPrevBeta1],
          gate[kPrevBeta2], gate[kPrevEps],   gate[kPrevDecay]};
}

}  // namespace unstuck
