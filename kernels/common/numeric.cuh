// Elementary functions, as exact as the element type that their results are rounded to.
#pragma once

#include "common/vec.cuh"

// 1 / x to one unit in the last place (PTX ISA, rcp.approx.ftz.f32); 0 for x = infinity.
__device__ __forceinline__ float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// 2^x to 2 units in the last place (PTX ISA, ex2.approx.ftz.f32).
__device__ __forceinline__ float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// exp(-a), a >= 0. Where results are rounded to 16 bits, the rounding of a * log2(e), 6e-8 * a
// relative in the result, is below half of f16's 5e-4 for every a whose result is not zero.
template <typename T>
__device__ __forceinline__ float exp_of_minus(float a) {
  if constexpr (sizeof(T) == 2) {
    return exp2_approximate(a * -1.4426950408889634f);
  } else {
    return expf(-a);
  }
}

// ln(1 + t), 0 <= t <= 1, relative error 3e-7 (float) or 9e-6 (16 bits): t times the polynomial
// nearest to ln(1 + t) / t (Remez), so exact in the tail where 1 + t rounds to 1.
template <typename T>
__device__ __forceinline__ float ln_1p(float t) {
  if constexpr (sizeof(T) == 2) {
    float series = -0.023869151f;
    series = fmaf(series, t, 0.10122228f);
    series = fmaf(series, t, -0.21004869f);
    series = fmaf(series, t, 0.32520667f);
    series = fmaf(series, t, -0.49936137f);
    return t * fmaf(series, t, 0.9999916f);
  } else {
    float series = 0.005232694f;
    series = fmaf(series, t, -0.029505237f);
    series = fmaf(series, t, 0.078225955f);
    series = fmaf(series, t, -0.13663246f);
    series = fmaf(series, t, 0.19106007f);
    series = fmaf(series, t, -0.24842982f);
    series = fmaf(series, t, 0.33319098f);
    series = fmaf(series, t, -0.49999493f);
    return t * fmaf(series, t, 0.99999994f);
  }
}
