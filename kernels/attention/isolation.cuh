// Keeps a NaN or an infinity in the backward pass away from rows that may not see it: 0 * NaN is
// NaN, so a weight of 0 is not enough. In tiles with such pairs, and only where something is not
// finite, these elements are taken out of the right operands of a product, and given back to the
// sums of those rows which see them.
#pragma once

#include "common/mma.cuh"
#include "common/reduce.cuh"
#include "common/shared.cuh"
#include "common/swizzled_tile.cuh"

// All bits of the exponents of two 16-bit numbers.
__device__ __forceinline__ constexpr unsigned exponents_of(__half) { return 0x7c007c00u; }
__device__ __forceinline__ constexpr unsigned exponents_of(__nv_bfloat16) { return 0x7f807f80u; }

// What stands for NaN, infinity and minus infinity while they are counted: 16 columns of each kind
// add up to less than the next kind's one.
constexpr float kNanCode = 1.0f, kPlusCode = 32.0f, kMinusCode = 1024.0f;

// All bits of those of two 16-bit numbers which are not finite.
template <typename T>
__device__ __forceinline__ unsigned non_finite(unsigned both) {
  return __vcmpeq2(both & exponents_of(T()), exponents_of(T()));
}

// Whether ROWS rows of `chunks` chunks hold a NaN or an infinity. All lanes take part and learn it.
template <typename T, int D, int ROWS>
__device__ __forceinline__ bool any_non_finite(SwizzledTile<D> tile, int chunks) {
  unsigned any = 0;
  for (int i = threadIdx.x % 32; i < ROWS * chunks; i += 32) {
    const uint4 words = load_shared(tile.chunk(i % ROWS, i / ROWS));
    any |= non_finite<T>(words.x) | non_finite<T>(words.y) | non_finite<T>(words.z) |
           non_finite<T>(words.w);
  }
  return __any_sync(kFullWarp, any != 0);
}

__device__ __forceinline__ float code_of(float value) {
  if (value == __int_as_float(0x7f800000)) return kPlusCode;
  if (value == __int_as_float(0xff800000)) return kMinusCode;
  return value != value ? kNanCode : 0.0f;
}

// Replaces what is not finite in right operands by 0; `codes` are its codes, and 0 elsewhere.
template <typename T>
__device__ __forceinline__ void take_out_non_finite(unsigned (&b)[4], unsigned (&codes)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float values[2];
    unpack(b[i], values, T());
    values[0] = code_of(values[0]);
    values[1] = code_of(values[1]);
    codes[i] = pack(values, T());
    b[i] &= ~non_finite<T>(b[i]);
  }
}

// Adds to each sum the elements of its column whose codes are (b0, b1) and which its row sees (1 in
// `sees`, else 0). A positive weight leaves an infinity as it is. All lanes take part.
template <typename T>
__device__ __forceinline__ void give_back(float (&sums)[4], const unsigned (&sees)[4], unsigned b0,
                                          unsigned b1) {
  constexpr float kInfinite = __builtin_huge_valf();
  float count[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  multiply_add(count, sees, b0, b1, T());
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int kinds = static_cast<int>(count[i]);
    if (kinds % static_cast<int>(kPlusCode) != 0) sums[i] = __int_as_float(0x7fffffff);
    if (kinds / static_cast<int>(kPlusCode) % 32 != 0) sums[i] += kInfinite;
    if (kinds / static_cast<int>(kMinusCode) != 0) sums[i] -= kInfinite;
  }
}
