// Sines, exponentials and logarithms of plain additions and multiplications: the same on the CPU
// and on the GPU, and within reach of the vectoriser. The float32 polynomials are minimax fits with
// a relative error below 1e-8, the float64 ones Taylor series below 1e-16.
#pragma once
#include <cstdint>
#include <cstring>

#if !defined(__CUDACC__)
#include <cmath>
#endif

#include "core/macros.hpp"

namespace unstuck {

// c0 + x (c1 + x (c2 + ...))
template <class R>
UNSTUCK_HD R horner(R, R c0) {
  return c0;
}
template <class R, class... Rest>
UNSTUCK_HD R horner(R x, R c0, Rest... rest) {
  return c0 + x * horner(x, R(rest)...);
}

// The nearest whole number, the even one between two.
UNSTUCK_HD float whole(float x) {
#if defined(__CUDA_ARCH__)
  return rintf(x);
#else
  return __builtin_rintf(x);
#endif
}
UNSTUCK_HD double whole(double x) {
#if defined(__CUDA_ARCH__)
  return rint(x);
#else
  return __builtin_rint(x);
#endif
}
// The largest whole number that is not above x.
template <class R>
UNSTUCK_HD R below(R x) {
  const R near = whole(x);
  return near > x ? near - R(1) : near;
}
UNSTUCK_HD float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return sqrtf(x);
#else
  return __builtin_sqrtf(x);
#endif
}
UNSTUCK_HD double square_root(double x) {
#if defined(__CUDA_ARCH__)
  return sqrt(x);
#else
  return __builtin_sqrt(x);
#endif
}
template <class R>
UNSTUCK_HD R magnitude(R x) {
  return x < R(0) ? -x : x;
}
// x - x is 0 for finite numbers alone.
template <class R>
UNSTUCK_HD bool is_finite(R x) {
  return x - x == R(0);
}

// sin(pi r) for abs(r) <= 1/2.
UNSTUCK_HD float sin_pi_near(float r) {
  return r * horner(r * r, 3.1415927f, -5.16771f, 2.5500698f, -0.59824216f, 0.077560425f);
}
UNSTUCK_HD double sin_pi_near(double r) {
  return r * horner(r * r, 3.141592653589793, -5.16771278004997, 2.5501640398773455,
                    -0.5992645293207921, 0.08214588661112823, -0.0073704309457143504,
                    0.00046630280576761255, -2.1915353447830217e-05, 7.952054001475513e-07,
                    -2.2948428997269873e-08, 5.392664662608129e-10, -1.0518471716932065e-11);
}
// cos(pi r) for abs(r) <= 1/2.
UNSTUCK_HD float cos_pi_near(float r) {
  return horner(r * r, 1.0f, -4.934802f, 4.0587096f, -1.335216f, 0.23495393f, -0.024420701f);
}

UNSTUCK_HD double cos_pi_near(double r) {
  return horner(r * r, 1.0, -4.934802200544679, 4.0587121264167685, -1.3352627688545895,
                0.2353306303588932, -0.02580689139001406, 0.0019295743094039231,
                -0.0001046381049248457, 4.303069587032947e-06, -1.3878952462213771e-07,
                3.604730797462501e-09, -7.700707130601354e-11, 1.3768647280377414e-12);
}

// sin(pi x)^2 for any x: (1 - cos(2 pi x)) / 2 without its cancellation.
template <class R>
UNSTUCK_HD R sin_pi_squared(R x) {
  const R s = sin_pi_near(x - whole(x));
  return s * s;
}

// x - k pi, with pi in three parts of which two have few enough bits for an exact product.
UNSTUCK_HD float less_pi(float x, float k) {
  return ((x - k * 3.140625f) - k * 0.0009675025939941406f) - k * 1.5099579909783765e-07f;
}
UNSTUCK_HD double less_pi(double x, double k) {
  return ((x - k * 3.141592651605606) - k * 1.9841871479187034e-09) - k * 1.1442377452219494e-17;
}
// 1 for an even k, -1 for an odd one.
template <class R>
UNSTUCK_HD R alternating(R k) {
  const R odd = k - R(2) * whole(k * R(0.5));
  return R(1) - R(2) * (odd * odd);
}
constexpr double kOneOverPi = 0.3183098861837907, kPi = 3.141592653589793;

template <class R>
UNSTUCK_HD R sine(R x) {
  const R k = whole(x * R(kOneOverPi));
  return alternating(k) * sin_pi_near(less_pi(x, k) * R(kOneOverPi));
}
template <class R>
UNSTUCK_HD R cosine(R x) {
  const R k = whole(x * R(kOneOverPi));
  return alternating(k) * cos_pi_near(less_pi(x, k) * R(kOneOverPi));
}

// 2^k for a whole k from -126 (-1022) to 127 (1023).
UNSTUCK_HD float power_of_two(float k) {
  const uint32_t bits = uint32_t(int32_t(k) + 127) << 23;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
UNSTUCK_HD double power_of_two(double k) {
  const uint64_t bits = uint64_t(int64_t(k) + 1023) << 52;
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
// exp(x) for x <= 0; what would be denormal is the smallest normal number, or about it.
UNSTUCK_HD float exp_negative(float x) {
  const float k = whole((x > -87.0f ? x : -87.0f) * 1.442695f);  // a number for NaN too
  const float near = x < -87.0f ? -87.0f : x;                    // NaN stays
  const float r = (near - k * 0.69140625f) - k * 0.0017409305599453094f;
  return power_of_two(k) *
         horner(r, 1.0f, 1.0f, 0.5f, 0.16666518f, 0.041666206f, 0.008368908f, 0.0013950523f);
}
UNSTUCK_HD double exp_negative(double x) {
  const double k = whole((x > -708.0 ? x : -708.0) * 1.4426950408889634);
  const double near = x < -708.0 ? -708.0 : x;
  const double r = (near - k * 0.6931471803691238) - k * 1.9082149292705877e-10;
  return power_of_two(k) * horner(r, 1.0, 1.0, 0.5, 0.16666666666666666, 0.041666666666666664,
                                  0.008333333333333333, 0.001388888888888889, 0.0001984126984126984,
                                  2.48015873015873e-05, 2.7557319223985893e-06,
                                  2.755731922398589e-07, 2.505210838544172e-08,
                                  2.08767569878681e-09, 1.6059043836821613e-10);
}

// log(x) of a positive x that is not denormal; infinity and NaN stay.
UNSTUCK_HD float logarithm(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const int32_t k = (bits - 0x3f3504f3) >> 23;  // x = 2^k m, m from the root of 1/2 to that of 2
  bits -= k * (1 << 23);
  float m;
  memcpy(&m, &bits, sizeof m);
  const float r = m - 1.0f, s = r * r;
  const float p = horner(r, 0.33333328f, -0.25000829f, 0.20001445f, -0.16623273f, 0.14197648f,
                         -0.13156946f, 0.12785538f, -0.07670866f);
  const float y = float(k) * 0.69314718f + (r - (0.5f * s - s * r * p));
  return is_finite(x) ? y : x;
}

// scale (a - b), where float64 may not hold a - b.
UNSTUCK_HD double scaled_difference(double scale, double a, double b) {
  const double half = scale * (0.5 * a - 0.5 * b);
  return half + half;
}

// 1 - exp(x) for x <= 0, accurate near 0: with h = 1 - exp(x / 2^k), h <- h (2 - h) undoes one k.
template <class R>
UNSTUCK_HD R one_less_exp_negative(R x) {
  if (!(x > R(-0.5))) return R(1) - exp_negative(x);
  const R y = x * R(0.0625);  // its series
  R h = -y * horner(y, R(1), R(0.5), R(0.16666666666666666), R(0.041666666666666664),
                    R(0.008333333333333333), R(0.001388888888888889), R(0.0001984126984126984),
                    R(2.48015873015873e-05), R(2.7557319223985893e-06));
  for (int k = 0; k < 4; ++k) h = h * (R(2) - h);
  return h;
}

}  // namespace unstuck
