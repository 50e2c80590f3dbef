// What the losses of corners share: which boxes count, and gradients of the few cells that they touch.
#pragma once

#include "common/vec.cuh"

constexpr int kCornerThreads = 256;
// Most boxes an image; mirrored by the host.
constexpr int kMaxCorners = 1024;
// What the authors' code adds to every count that divides.
constexpr double kEpsilon = 1e-4;

// Whether an index names one of `cells`.
__device__ __forceinline__ bool is_cell(int index, long long cells) { return index >= 0 && index < cells; }

// Writes zeros to [0, length) of an image's gradient. All threads of the block take part.
template <typename T>
__device__ __forceinline__ void clear_gradient(T* gradient, long long length) {
  const unsigned long long address = reinterpret_cast<unsigned long long>(gradient);
  const bool wide = address % 16 == 0;
  const long long vectors = wide ? length / kVector<T> : 0;
  for (long long at = threadIdx.x; at < vectors; at += kCornerThreads) {
    __stwb(reinterpret_cast<uint4*>(gradient) + at, make_uint4(0, 0, 0, 0));
  }
  for (long long at = vectors * kVector<T> + threadIdx.x; at < length; at += kCornerThreads) {
    gradient[at] = from_float<T>(0.0f);
  }
}

// Adds up, in the order of the boxes, the slopes of all boxes at the cell of box `number`, and returns
// whether it is the first of them. indices < 0 are left out.
__device__ __forceinline__ bool sum_of_cell(const int* indices, const double* slopes, int boxes, int number,
                                            double& sum) {
  const int index = indices[number];
  if (index < 0) return false;
  for (int earlier = 0; earlier < number; ++earlier) {
    if (indices[earlier] == index) return false;
  }
  sum = 0.0;
  for (int other = number; other < boxes; ++other) {
    if (indices[other] == index) sum += slopes[other];
  }
  return true;
}
