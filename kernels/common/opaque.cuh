// A limit to what the compiler keeps in registers.
#pragma once

// The value, which the compiler takes for another one each time: what is computed from it in a loop
// is computed anew instead of being kept from before the loop.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
