// Conversion between float types.
//
// Reads:   from [N] S
// Writes:  to [N] D
// Launch:  <<<blocks, 256>>>, any number of blocks
// Order:   element by element: nearest, ties to even; what is out of range becomes infinite, NaN stays NaN
// Cost:    N elements read and written
// Source:  IEEE 754, 5.4.2
// archs: sm_80

#include "common/vec.cuh"

namespace {

constexpr int kThreads = 256;
// Elements a thread converts at once: one 16-byte vector of the smaller type.
constexpr int kElements = 8;

template <typename S, typename D>
__device__ void cast(long long count, int aligned, const S* from, D* to) {
  const long long first = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  const long long step = static_cast<long long>(gridDim.x) * kThreads;
  const long long whole = aligned ? count / kElements : 0;
  for (long long i = first; i < whole; i += step) {
    float in[kElements / kVector<S>][kVector<S>];
#pragma unroll
    for (int v = 0; v < kElements / kVector<S>; ++v) load_vector(from + i * kElements + v * kVector<S>, in[v]);
#pragma unroll
    for (int v = 0; v < kElements / kVector<D>; ++v) {
      float out[kVector<D>];
#pragma unroll
      for (int e = 0; e < kVector<D>; ++e) {
        const int place = v * kVector<D> + e;
        out[e] = in[place / kVector<S>][place % kVector<S>];
      }
      store_vector(to + i * kElements + v * kVector<D>, out);
    }
  }
  for (long long i = whole * kElements + first; i < count; i += step) to[i] = from_float<D>(to_float(from[i]));
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
  cast_f32_f16(long long count, int aligned, const float* from, __half* to) {
  cast(count, aligned, from, to);
}

extern "C" __global__ void __launch_bounds__(kThreads)
  cast_f32_bf16(long long count, int aligned, const float* from, __nv_bfloat16* to) {
  cast(count, aligned, from, to);
}

extern "C" __global__ void __launch_bounds__(kThreads)
  cast_f16_f32(long long count, int aligned, const __half* from, float* to) {
  cast(count, aligned, from, to);
}

extern "C" __global__ void __launch_bounds__(kThreads)
  cast_f16_bf16(long long count, int aligned, const __half* from, __nv_bfloat16* to) {
  cast(count, aligned, from, to);
}

extern "C" __global__ void __launch_bounds__(kThreads)
  cast_bf16_f32(long long count, int aligned, const __nv_bfloat16* from, float* to) {
  cast(count, aligned, from, to);
}

extern "C" __global__ void __launch_bounds__(kThreads)
  cast_bf16_f16(long long count, int aligned, const __nv_bfloat16* from, __half* to) {
  cast(count, aligned, from, to);
}
