// Functions made of IEEE operations that nvcc may not contract: src/cpu/math.rs has the same operations
// in the same order, so that both give the same bits. In double precision: rounded to f32, the results
// are the nearest to the exact ones, all but once in 10^8.
#pragma once

// exp(-a) for a >= 0, to 4e-16 relative; exp(-110) from a = 110 on, which is 0 as a float.
// exp(-a) = 2^n * exp(r), n an integer and |r| <= ln(2) / 2; the Taylor series to r^12 is within 2e-16.
__device__ inline double exp_of_minus_f64(double a) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: a sum with it is rounded to an integer
  constexpr double kLn2High = 0.6931471803691238, kLn2Low = 1.9082149292705877e-10;  // 33 bits; the rest
  constexpr double kSeries[] = {
    1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
    1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0,        1.0,
  };
  const double x = -(a < 110.0 ? a : 110.0);
  const double shifted = __dadd_rn(__dmul_rn(x, 1.4426950408889634), kRound);
  const double n = __dsub_rn(shifted, kRound);
  const double r = __dsub_rn(__dsub_rn(x, __dmul_rn(n, kLn2High)), __dmul_rn(n, kLn2Low));
  double series = 1.0 / 479001600;
#pragma unroll
  for (const double coefficient : kSeries) series = __dadd_rn(__dmul_rn(series, r), coefficient);
  // The low bits of `shifted` hold n; with the bias of 1023 they become the exponent of 2^n.
  return __dmul_rn(series, __longlong_as_double((__double_as_longlong(shifted) + 1023) << 52));
}

// 1 / (1 + exp(-x)), rounded to a float once.
__device__ inline float sigmoid_exactly(float x) {
  const double t = exp_of_minus_f64(fabs(static_cast<double>(x)));
  return static_cast<float>(__ddiv_rn(x < 0.0f ? t : 1.0, __dadd_rn(1.0, t)));
}
