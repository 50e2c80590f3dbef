// Structs that the host fills, and which it mirrors field by field.
#pragma once

// Division of n < 2^31 by a number known at launch. Mirrors `Divisor` in src/cuda/divisor.rs.
struct Divisor {
  unsigned multiplier;  // 0 for division by 1
  unsigned shift;
};
static_assert(sizeof(Divisor) == 8, "mirrored by the host");

__device__ __forceinline__ int divide(int n, Divisor by) {
  if (by.multiplier == 0) return n;
  return static_cast<int>(__umulhi(static_cast<unsigned>(n), by.multiplier) >> by.shift);
}

// quotient d + remainder, 0 <= remainder < d.
struct Split {
  long long quotient;
  long long remainder;
};

// Splits n >= 0 by d >= 1: by multiplication where n < 2^31.
__device__ __forceinline__ Split split(long long n, long long d, Divisor by) {
  const long long quotient = n >> 31 == 0 ? divide(static_cast<int>(n), by) : n / d;
  return {quotient, n - quotient * d};
}
