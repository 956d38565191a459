// The gradients of the landscapes, one coordinate at a time, from the sums of math/landscapes.hpp.
//
//   prepare(a, b, dim, p, q)     two numbers that all coordinates share
//   at(x, i, p, q)               of a sum of one term a coordinate
//   left(u, v), right(u, v)      of a term of neighbours, by the former and by the latter
//   ends(first, last, g, h)      what finish() adds to the first and to the last coordinate
//
// Where there is no derivative it is 0.
#pragma once
#include "math/landscapes.hpp"

namespace unstuck {

// sin(2 pi x)
template <class R>
UNSTUCK_HD R sin_two_pi(R x) {
  const R r = x - whole(x);
  return R(2) * sin_pi_near(r) * cos_pi_near(r);
}

struct AnySlope {
  LandscapeParameters parameters;
  template <class R>
  UNSTUCK_HD void prepare(R, R, double, R&, R&) const {}
  template <class R>
  UNSTUCK_HD void ends(R, R, R&, R&) const {}
};
template <class Landscape>
struct Slope;

template <>
struct Slope<Sphere> : AnySlope {
  template <class R>
  UNSTUCK_HD R at(R x, R, R, R) const {
    return R(2) * x;
  }
};

template <>
struct Slope<Rastrigin> : AnySlope {
  template <class R>
  UNSTUCK_HD R at(R x, R, R, R) const {
    return R(2) * x + R(20 * kPi) * sin_two_pi(x);
  }
};

template <>
struct Slope<Ackley> : AnySlope {
  template <class R>
  UNSTUCK_HD void prepare(R a, R b, double dim, R& p, R& q) const {
    const R radius = square_root(a / R(dim));
    p = radius > R(0) ? R(4) * exp_negative(R(-0.2) * radius) / (radius * R(dim)) : R(0);
    q = R(2 * kPi * 2.718281828459045) * exp_negative(R(-2) * (b / R(dim))) / R(dim);
  }
  template <class R>
  UNSTUCK_HD R at(R x, R, R p, R q) const {
    return p * x + q * sin_two_pi(x);
  }
};

template <>
struct Slope<Griewank> : AnySlope {
  template <class R>
  UNSTUCK_HD void prepare(R, R b, double, R& p, R&) const {
    p = b;
  }
  template <class R>
  UNSTUCK_HD R at(R x, R i, R p, R) const {
    const R root = square_root(i);
    return x / R(2000) + p / griewank_factor(x, i) * (sine(x / root) / root);
  }
};

template <>
struct Slope<Rosenbrock> : AnySlope {
  template <class R>
  UNSTUCK_HD R left(R u, R v) const {
    return R(-400) * u * (v - u * u) - R(2) * (R(1) - u);
  }
  template <class R>
  UNSTUCK_HD R right(R u, R v) const {
    return R(200) * (v - u * u);
  }
};

template <>
struct Slope<Eggholder> : AnySlope {
  // cos(sqrt(abs z)) times the derivative of sqrt(abs z)
  template <class R>
  UNSTUCK_HD static R wave(R z) {
    const R root = square_root(magnitude(z));
    const R slope = root > R(0) ? cosine(root) / (R(2) * root) : R(0);
    return z < R(0) ? -slope : slope;
  }
  template <class R>
  UNSTUCK_HD R left(R u, R x) const {
    const R v = x + R(47);
    return R(-0.5) * (v * wave(u / R(2) + v)) - sine(square_root(magnitude(u - v))) -
           u * wave(u - v);
  }
  template <class R>
  UNSTUCK_HD R right(R u, R x) const {
    const R v = x + R(47);
    return u * wave(u - v) - sine(square_root(magnitude(u / R(2) + v))) - v * wave(u / R(2) + v);
  }
};

template <>
struct Slope<GaussianPeaks> : AnySlope {
  template <class R>
  UNSTUCK_HD static R peak(R d, R e) {
    return R(6) * d * exp_negative(R(-3) * (d * d + e * e));
  }
  template <class R>
  UNSTUCK_HD R left(R u, R v) const {
    return peak(u - R(2), v - R(2)) + peak(u - R(2), v + R(2)) + peak(u + R(2), v - R(2)) +
           peak(u + R(2), v + R(2)) + peak(u, v);
  }
  template <class R>
  UNSTUCK_HD R right(R u, R v) const {
    return left(v, u);
  }
};

template <>
struct Slope<EggBoxBowl> : AnySlope {
  template <class R>
  UNSTUCK_HD R left(R u, R v) const {
    return cosine(u) * cosine(v) + R(0.2) * u;
  }
  template <class R>
  UNSTUCK_HD R right(R u, R v) const {
    return R(0.2) * v - sine(u) * sine(v);
  }
};

template <>
struct Slope<Ravine> : AnySlope {
  template <class R>
  UNSTUCK_HD R left(R u, R) const {
    return R(2) * R(parameters.p[0]) * u;
  }
  template <class R>
  UNSTUCK_HD R right(R, R v) const {
    return R(2) * R(parameters.p[1]) * v;
  }
};

template <>
struct Slope<ScaledSaddle> : AnySlope {
  template <class R>
  UNSTUCK_HD R left(R u, R v) const {
    return R(0.02) * u + R(10) * (v * v) * cosine(R(0.1) * u) * cosine(R(0.1) * v);
  }
  template <class R>
  UNSTUCK_HD R right(R u, R v) const {
    const R phase = R(0.1) * v;
    return sine(R(0.1) * u) * (R(200) * v * cosine(phase) - R(10) * (v * v) * sine(phase));
  }
};

template <>
struct Slope<Schwefel> : AnySlope {
  template <class R>
  UNSTUCK_HD R at(R x, R, R, R) const {
    const R root = square_root(magnitude(x));
    return -sine(root) - R(0.5) * root * cosine(root);
  }
};

template <>
struct Slope<Levy> : AnySlope {
  template <class R>
  UNSTUCK_HD R left(R u, R) const {
    const R w = (u - R(1)) / R(4), phase = w + R(1 + kOneOverPi);
    return R(0.5) * w * (R(1) + R(10) * sin_pi_squared(phase)) +
           R(2.5 * kPi) * (w * w) * sin_two_pi(phase);
  }
  template <class R>
  UNSTUCK_HD R right(R, R) const {
    return R(0);
  }
  template <class R>
  UNSTUCK_HD void ends(R first, R last, R& g, R& h) const {
    g += R(0.25 * kPi) * sin_two_pi((first - R(1)) / R(4));
    const R w = (last - R(1)) / R(4);
    h += R(0.5) * w * (R(1) + sin_pi_squared(R(2) * w)) +
         R(0.5 * kPi) * (w * w) * sin_two_pi(R(2) * w);
  }
};

template <>
struct Slope<StyblinskiTang> : AnySlope {
  template <class R>
  UNSTUCK_HD R at(R x, R, R, R) const {
    return x * (R(2) * (x * x) - R(16)) + R(2.5);
  }
};

template <>
struct Slope<Michalewicz> : AnySlope {
  template <class R>
  UNSTUCK_HD R at(R x, R i, R, R) const {
    const R phase = i * x * x * R(kOneOverPi), s = sine(phase);
    const R s2 = s * s, s4 = s2 * s2, s8 = s4 * s4, s16 = s8 * s8;
    return -cosine(x) * (s16 * s4) -
           sine(x) * (R(40 * kOneOverPi) * (s16 * s2 * s) * cosine(phase)) * (i * x);
  }
};

template <>
struct Slope<Zakharov> : AnySlope {
  template <class R>
  UNSTUCK_HD void prepare(R, R b, double, R& p, R&) const {
    p = b + R(2) * (b * b * b);
  }
  template <class R>
  UNSTUCK_HD R at(R x, R i, R p, R) const {
    return R(2) * x + p * i;
  }
};

}  // namespace unstuck
