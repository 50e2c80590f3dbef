// Functions whose every operation is rounded on its own (the _rn forms are never contracted into
// fused multiply-adds), in the order of src/cpu/math.rs: both devices give the same bits.
#pragma once

// exp(x), x <= 88, to 2e-7 relative; 0 below about -87.7; NaN for NaN. exp(x) = 2^n * exp(r), n an
// integer, |r| <= ln(2) / 2, by the Taylor series to r^7.
__device__ __forceinline__ float exp_like_cpu(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the sum's low bits hold the integer
  if (x < -88.0f) x = -88.0f;
  const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), kRound);
  const float n = __fsub_rn(shifted, kRound);
  // ln(2) in two parts, the first of 9 bits, so that its product with n is exact.
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, -2.1219444e-4f));
  constexpr float kSeries[] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
  float series = 1.0f / 5040.0f;
#pragma unroll
  for (float coefficient : kSeries) series = __fadd_rn(__fmul_rn(series, r), coefficient);
  // With the bias of 127, the integer becomes the exponent of 2^n.
  return __fmul_rn(series, __uint_as_float((__float_as_uint(shifted) + 127) << 23));
}

__device__ __forceinline__ float sigmoid_like_cpu(float x) {
  const float t = exp_like_cpu(-fabsf(x));
  return __fdiv_rn(x < 0.0f ? t : 1.0f, __fadd_rn(1.0f, t));
}
