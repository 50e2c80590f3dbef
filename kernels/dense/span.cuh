// A thread's elements: 16 bytes of them where rows allow it, else one.
#pragma once

#include "common/vec.cuh"

// Elements of a thread. `wide`: pointers and the innermost extent are multiples of 16 bytes.
template <typename T>
__device__ __forceinline__ int span(bool wide) {
  return wide ? kVector<T> : 1;
}

// Loads a thread's elements; those beyond its span are 0.
template <typename T>
__device__ __forceinline__ void load_span(const T* from, float (&values)[kVector<T>], bool wide) {
  if (wide) {
    load_vector(from, values);
    return;
  }
#pragma unroll
  for (int i = 1; i < kVector<T>; ++i) values[i] = 0.0f;
  values[0] = to_float(*from);
}

template <typename T>
__device__ __forceinline__ void store_span(T* to, const float (&values)[kVector<T>], bool wide) {
  if (wide) {
    store_vector(to, values);
  } else {
    *to = from_float<T>(values[0]);
  }
}
