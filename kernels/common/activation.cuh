// What a layer's result goes through last.
#pragma once

#include <cfloat>

// Mirrors `code` in src/cuda/activation.rs.
enum Activation : int { kNone = 0, kRelu = 1, kGelu = 2 };

// NaN stays NaN. At minus infinity gelu's distribution function is 0, and 0 times the largest number
// is the limit that 0 times infinity is not.
__device__ __forceinline__ float activate(float x, int activation) {
  if (activation == kRelu) return x < 0.0f ? 0.0f : x;
  if (activation == kGelu) {
    const float bounded = x < -FLT_MAX ? -FLT_MAX : x;
    return bounded * (0.5f + 0.5f * erff(x * 0.70710678f));
  }
  return x;
}
