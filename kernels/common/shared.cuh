// Shared memory by address: what ldmatrix and cp.async take, without generic pointers.
#pragma once

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// 16 bytes at a multiple of 16.
__device__ __forceinline__ uint4 load_shared(unsigned address) {
  uint4 words;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "r"(address)
               : "memory");
  return words;
}
__device__ __forceinline__ void store_shared(unsigned address, uint4 words) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words.x),
               "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}

// 4 bytes at a multiple of 4.
__device__ __forceinline__ void store_shared(unsigned address, unsigned word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

// 8 bytes at a multiple of 8.
__device__ __forceinline__ float2 load_shared_floats(unsigned address) {
  float2 floats;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(floats.x), "=f"(floats.y)
               : "r"(address)
               : "memory");
  return floats;
}

// 2 bytes at a multiple of 2.
__device__ __forceinline__ unsigned short load_shared_half(unsigned address) {
  unsigned short half;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(half) : "r"(address) : "memory");
  return half;
}

// 8 bytes at a multiple of 8. By instruction: nvcc 13.0 splits a plain assignment of two floats.
__device__ __forceinline__ void store_shared(unsigned address, float2 values) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(values.x), "f"(values.y)
               : "memory");
}
