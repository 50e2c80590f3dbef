// Maxima that NaN wins.
#pragma once

// The larger of two values, NaN where one is NaN. By instruction: comparisons would part the lanes of
// a warp.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
