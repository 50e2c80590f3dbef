// Scores and their exponentials, in base 2: exp(s) = 2^(s * log2(e)), one multiply-add and ex2.
#pragma once

#include "attention/scalars.cuh"
#include "common/mma.cuh"
#include "common/numeric.cuh"

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kInfinity = __builtin_huge_valf();

// tanh(x) = 1 - 2 / (1 + exp(2 x)), to 3e-7 absolute: what 16-bit scores are capped with.
__device__ __forceinline__ float tanh_approximate(float x) {
  return 1.0f - 2.0f * reciprocal(1.0f + exp2_approximate(2.0f * kLog2E * x));
}

// The slope of tanh, 1 - tanh(x)^2 = 4 t / (1 + t)^2 with t = exp(-2 |x|): the difference has no digits
// left where the tangent is near 1.
__device__ __forceinline__ float tanh_slope_approximate(float x) {
  const float t = exp2_approximate(-2.0f * kLog2E * fabsf(x));
  const float inverse = reciprocal(1.0f + t);
  return 4.0f * t * inverse * inverse;
}

// What is subtracted from the scores of a row whose largest is `peak`: 0 for a row that sees
// nothing, whose scores of -infinity must give 0, not NaN.
__device__ __forceinline__ float finite_peak(float peak) {
  return peak == -kInfinity ? 0.0f : peak;
}

// Largest and sum of `value` over the four lanes that hold a row of a fragment; all four get it.
__device__ __forceinline__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// Scores of 16 M rows by 8 N columns, or what came of them, rounded, as the left operand of products over
// the columns.
template <typename T, int M, int N>
__device__ __forceinline__ void round_scores(unsigned (&rounded)[M][N / 2][4],
                                             const float (&scores)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      as_left_operand<T>(rounded[m][n / 2], scores[m][n], scores[m][n + 1]);
    }
  }
}
