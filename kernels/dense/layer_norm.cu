// Layer norm: each row less its mean, over its standard deviation, times weight, plus bias.
//
// Reads:   x [R, D] T, weight [D] T, bias [D] T
// Writes:  out [R, D] T
// Launch:  <<<ceil(R / warps), 32 * warps, 4 * D * warps>>>, a warp a row
// Order:   sums go along a lane's elements, then across the warp in a fixed tree
// Cost:    each row read once and written once, weight and bias from the caches
// Source:  Ba, Kiros and Hinton, "Layer Normalization", 2016; the variance from differences to the
//          mean, which a large mean does not hurt
// archs: sm_80

#include "common/reduce.cuh"
#include "common/shared.cuh"
#include "dense/span.cuh"

#include <cstddef>

// Mirrors `Scalars` in src/cuda/layer_norm.rs.
struct Scalars {
  long long rows;
  int width;
  float epsilon;
  int wide;
  int padding;
};
static_assert(sizeof(Scalars) == 24, "mirrored by the host");
static_assert(offsetof(Scalars, wide) == 16, "mirrored by the host");

// The sum of all lanes' values, in every lane.
__device__ __forceinline__ float sum_in_all_lanes(float value) {
  return __shfl_sync(kFullWarp, warp_sum(value), 0);
}

template <typename T>
__device__ __forceinline__ void layer_norm(const Scalars& s, const T* x, const T* weight,
                                           const T* bias, T* out) {
  extern __shared__ float rows[];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const long long row = 1LL * blockIdx.x * (blockDim.x / 32) + warp;
  if (row >= s.rows) return;
  x += row * s.width;
  out += row * s.width;
  // Each lane reads back what it wrote itself: no barrier is needed.
  float* kept = rows + warp * s.width;
  const int step = span<T>(s.wide);

  float sum = 0.0f;
  for (int at = lane * step; at < s.width; at += 32 * step) {
    float values[kVector<T>];
    load_span(x + at, values, s.wide);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      if (i < step) kept[at + i] = values[i];
      sum += values[i];
    }
  }
  const float mean = sum_in_all_lanes(sum) / s.width;
  float squares = 0.0f;
  for (int at = lane * step; at < s.width; at += 32 * step) {
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      const float difference = i < step ? kept[at + i] - mean : 0.0f;
      squares += difference * difference;
    }
  }
  const float scale = 1.0f / sqrtf(sum_in_all_lanes(squares) / s.width + s.epsilon);
  for (int at = lane * step; at < s.width; at += 32 * step) {
    float weights[kVector<T>], biases[kVector<T>], values[kVector<T>];
    load_span(weight + at, weights, s.wide);
    load_span(bias + at, biases, s.wide);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      const float value = i < step ? kept[at + i] : 0.0f;
      values[i] = (value - mean) * scale * weights[i] + biases[i];
    }
    store_span(out + at, values, s.wide);
  }
}

extern "C" __global__ void layer_norm_f32(Scalars s, const float* x, const float* weight,
                                          const float* bias, float* out) {
  layer_norm(s, x, weight, bias, out);
}

extern "C" __global__ void layer_norm_f16(Scalars s, const __half* x, const __half* weight,
                                          const __half* bias, __half* out) {
  layer_norm(s, x, weight, bias, out);
}

extern "C" __global__ void layer_norm_bf16(Scalars s, const __nv_bfloat16* x,
                                           const __nv_bfloat16* weight, const __nv_bfloat16* bias,
                                           __nv_bfloat16* out) {
  layer_norm(s, x, weight, bias, out);
}
