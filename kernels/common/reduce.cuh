// Sums over a warp and a block, in a fixed order.
#pragma once

constexpr unsigned kFullWarp = 0xffffffffu;

// All 32 lanes take part; lane 0 holds the sum.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_down_sync(kFullWarp, value, distance);
  }
  return value;
}

// All threads of a one-dimensional block of THREADS take part; thread 0 holds the sum. A barrier
// lies between two calls.
template <int THREADS>
__device__ __forceinline__ double block_sum(double value) {
  static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps, and one warp adds their sums");
  __shared__ double of_warp[THREADS / 32];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const double sum = warp_sum(value);
  if (lane == 0) of_warp[warp] = sum;
  // Warp 0 reads what the others wrote.
  __syncthreads();
  if (warp != 0) return 0.0;
  return warp_sum(lane < THREADS / 32 ? of_warp[lane] : 0.0);
}
