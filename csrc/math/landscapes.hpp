// The landscapes: a sum of one term a coordinate, or of one a pair of neighbours. A kernel runs
// term() over the coordinates of a candidate with one or two accumulators, in any order, and then
// finish() once.
//
//   term(before, x, i, a, b)   the i-th coordinate, counted from 1; where kPairs, i and i + 1, and
//                              `before` is the former. Adds to a, and to b (multiplies, kProduct).
//   finish(a, b, first, last, dim)
//   kSecond, kEnds             whether finish() looks at b, at the first and the last coordinate
//   kPlanar                    meant for two coordinates
#pragma once
#include "math/elementary.hpp"

namespace unstuck {

struct LandscapeParameters {
  double p[2];
};

struct Separable {
  static constexpr bool kPairs = false, kProduct = false, kSecond = false, kEnds = false,
                        kPlanar = false;
  LandscapeParameters parameters;
  template <class R>
  UNSTUCK_HD R finish(R a, R, R, R, double) const {
    return a;
  }
};
struct Neighbours : Separable {
  static constexpr bool kPairs = true;
};
struct Planar : Neighbours {
  static constexpr bool kPlanar = true;
};

struct Sphere : Separable {
  template <class R>
  UNSTUCK_HD void term(R, R x, R, R& a, R&) const {
    a += x * x;
  }
};

struct Rastrigin : Separable {  // 10 (1 - cos 2 pi x) = 20 sin^2 pi x
  template <class R>
  UNSTUCK_HD void term(R, R x, R, R& a, R&) const {
    a += x * x + R(20) * sin_pi_squared(x);
  }
};

struct Ackley : Separable {
  static constexpr bool kSecond = true;
  template <class R>
  UNSTUCK_HD void term(R, R x, R, R& a, R& b) const {
    a += x * x;
    b += sin_pi_squared(x);
  }
  template <class R>
  UNSTUCK_HD R finish(R a, R b, R, R, double dim) const {
    const R radius = square_root(a / R(dim)), waves = b / R(dim);
    return R(20) * one_less_exp_negative(R(-0.2) * radius) +
           R(2.718281828459045) * one_less_exp_negative(R(-2) * waves);
  }
};

// Never 0, so that a gradient can divide the product by it.
template <class R>
UNSTUCK_HD R griewank_factor(R x, R i) {
  const R c = cosine(x / square_root(i));
  return c == R(0) ? R(1e-20) : c;
}
struct Griewank : Separable {
  static constexpr bool kProduct = true, kSecond = true;
  template <class R>
  UNSTUCK_HD void term(R, R x, R i, R& a, R& b) const {
    a += x * x;
    b *= griewank_factor(x, i);
  }
  template <class R>
  UNSTUCK_HD R finish(R a, R b, R, R, double) const {
    return R(1) + a / R(4000) - b;
  }
};

struct Rosenbrock : Neighbours {
  template <class R>
  UNSTUCK_HD void term(R before, R x, R, R& a, R&) const {
    const R valley = x - before * before, way = R(1) - before;
    a += R(100) * (valley * valley) + way * way;
  }
};

struct Eggholder : Planar {
  template <class R>
  UNSTUCK_HD void term(R before, R x, R, R& a, R&) const {
    const R v = x + R(47);
    a -= v * sine(square_root(magnitude(before / R(2) + v)));
    a -= before * sine(square_root(magnitude(before - v)));
  }
};

struct GaussianPeaks : Planar {
  template <class R>
  UNSTUCK_HD void term(R before, R x, R, R& a, R&) const {
    const auto height = [&](R u, R v) {
      const R d = before - u, e = x - v;
      return exp_negative(R(-3) * (d * d + e * e));
    };
    a -= height(2, 2) + height(2, -2) + height(-2, 2) + height(-2, -2) + height(0, 0);
  }
};

struct EggBoxBowl : Planar {
  template <class R>
  UNSTUCK_HD void term(R before, R x, R, R& a, R&) const {
    a += sine(before) * cosine(x) + R(0.1) * (before * before + x * x);
  }
};

struct Ravine : Planar {
  template <class R>
  UNSTUCK_HD void term(R before, R x, R, R& a, R&) const {
    a += R(parameters.p[0]) * (before * before) + R(parameters.p[1]) * (x * x);
  }
};

struct ScaledSaddle : Planar {
  template <class R>
  UNSTUCK_HD void term(R before, R x, R, R& a, R&) const {
    a +=
        R(0.01) * (before * before) + R(100) * (x * x) * sine(R(0.1) * before) * cosine(R(0.1) * x);
  }
};

struct Schwefel : Separable {
  template <class R>
  UNSTUCK_HD void term(R, R x, R, R& a, R&) const {
    a += R(418.98288727243378) - x * sine(square_root(magnitude(x)));
  }
};

struct Levy : Neighbours {  // w is one less than usual
  static constexpr bool kEnds = true;
  template <class R>
  UNSTUCK_HD void term(R before, R, R, R& a, R&) const {
    const R w = (before - R(1)) / R(4);
    a += w * w * (R(1) + R(10) * sin_pi_squared(w + R(1.3183098861837907)));  // 1 + 1 / pi
  }
  template <class R>
  UNSTUCK_HD R finish(R a, R, R first, R last, double) const {
    const R w = (last - R(1)) / R(4);
    return sin_pi_squared((first - R(1)) / R(4)) + a + w * w * (R(1) + sin_pi_squared(R(2) * w));
  }
};

struct StyblinskiTang : Separable {
  template <class R>
  UNSTUCK_HD void term(R, R x, R, R& a, R&) const {
    const R square = x * x;
    a += R(0.5) * (square * (square - R(16)) + R(5) * x);
  }
};

struct Michalewicz : Separable {
  template <class R>
  UNSTUCK_HD void term(R, R x, R i, R& a, R&) const {
    const R s = sine(i * x * x * R(kOneOverPi));
    const R s2 = s * s, s4 = s2 * s2, s8 = s4 * s4;
    a -= sine(x) * (s8 * s8 * s4);
  }
};

struct Zakharov : Separable {
  static constexpr bool kSecond = true;
  template <class R>
  UNSTUCK_HD void term(R, R x, R i, R& a, R& b) const {
    a += x * x;
    b += R(0.5) * i * x;
  }
  template <class R>
  UNSTUCK_HD R finish(R a, R b, R, R, double) const {
    const R tilt = b * b;
    return a + tilt + tilt * tilt;
  }
};

// Every landscape, in the order of TABLE in ops/reference_landscapes.py.
#define UNSTUCK_LANDSCAPES(X) \
  X(Sphere)                   \
  X(Rastrigin)                \
  X(Ackley)                   \
  X(Griewank)                 \
  X(Rosenbrock)               \
  X(Eggholder)                \
  X(GaussianPeaks)            \
  X(EggBoxBowl)               \
  X(Ravine) X(ScaledSaddle) X(Schwefel) X(Levy) X(StyblinskiTang) X(Michalewicz) X(Zakharov)

constexpr int kLandscapes = 15;

}  // namespace unstuck
