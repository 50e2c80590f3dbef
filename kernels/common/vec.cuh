// 16-byte loads and stores of small elements, as floats.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Elements of T in the widest load there is.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) { return value; }
template <>
__device__ __forceinline__ __half from_float<__half>(float value) { return __float2half_rn(value); }
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// The 4 / sizeof(T) elements in a word, the first in its low bits.
__device__ __forceinline__ void unpack(unsigned word, float* values, float) {
  values[0] = __uint_as_float(word);
}
__device__ __forceinline__ void unpack(unsigned word, float* values, __half) {
  values[0] = __half2float(__ushort_as_half(static_cast<unsigned short>(word)));
  values[1] = __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}
// A bf16 is the upper half of a float.
__device__ __forceinline__ void unpack(unsigned word, float* values, __nv_bfloat16) {
  values[0] = __uint_as_float(word << 16);
  values[1] = __uint_as_float(word & 0xffff0000u);
}

// The word that `unpack` takes apart, each element rounded to nearest, ties to even.
__device__ __forceinline__ unsigned pack(const float* values, float) {
  return __float_as_uint(values[0]);
}
__device__ __forceinline__ unsigned pack(const float* values, __half) {
  const __half2 both = __floats2half2_rn(values[0], values[1]);
  return __half_as_ushort(both.x) | static_cast<unsigned>(__half_as_ushort(both.y)) << 16;
}
__device__ __forceinline__ unsigned pack(const float* values, __nv_bfloat16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(values[0], values[1]);
  return __bfloat16_as_ushort(both.x) | static_cast<unsigned>(__bfloat16_as_ushort(both.y)) << 16;
}

// The elements of 16 bytes, as floats.
template <typename T>
__device__ __forceinline__ void unpack_vector(uint4 words, float (&values)[kVector<T>]) {
  constexpr int kWord = 4 / sizeof(T);
  unpack(words.x, values, T());
  unpack(words.y, values + kWord, T());
  unpack(words.z, values + 2 * kWord, T());
  unpack(words.w, values + 3 * kWord, T());
}

// The 16 bytes that `unpack_vector` takes apart, each element rounded to nearest, ties to even.
template <typename T>
__device__ __forceinline__ uint4 pack_vector(const float (&values)[kVector<T>]) {
  constexpr int kWord = 4 / sizeof(T);
  return make_uint4(pack(values, T()), pack(values + kWord, T()), pack(values + 2 * kWord, T()),
                    pack(values + 3 * kWord, T()));
}

// Loads 16 bytes from a 16-byte aligned address. The line is marked to leave the caches first: what
// is streamed is read once. The calling thread alone takes part.
template <typename T>
__device__ __forceinline__ void load_vector(const T* from, float (&values)[kVector<T>]) {
  unpack_vector<T>(__ldcs(reinterpret_cast<const uint4*>(from)), values);
}

// Stores 16 bytes to a 16-byte aligned address. By intrinsic: nvcc 13.0 splits a plain assignment
// into four stores.
template <typename T>
__device__ __forceinline__ void store_vector(T* to, const float (&values)[kVector<T>]) {
  __stwb(reinterpret_cast<uint4*>(to), pack_vector<T>(values));
}
