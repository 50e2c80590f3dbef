// Group norm of images [B, P, C], P pixels: each group of neighbouring channels of an image less its
// mean, over its standard deviation, times weight, plus bias, through an activation.
//
// Reads:   x [B, P, C] T, weight [C] T, bias [C] T
// Writes:  sums [B, chunks, G, 2] f64 (sum and sum of squares), moments [B, G, 2] f32 (mean and
//          1 / standard deviation), out [B, P, C] T
// Launch:  group_norm_sums_* <<<(chunks, B), 256, 16 * C>>>, with C at least 256 for the purpose;
//          group_norm_moments_f64 <<<(G, B), 32>>>; group_norm_apply_* <<<blocks, 256>>>
// Order:   a thread adds its pixels in order, a group its channels, a warp its chunks in a fixed
//          tree: nothing depends on the schedule
// Cost:    x read twice (from L2 the second time where it fits) and written once. Squares are summed
//          in f64, where those of f32 are exact: two such operations an element, which GPUs with
//          few f64 units feel
// Source:  Wu and He, "Group Normalization", 2018
// archs: sm_80

#include "common/activation.cuh"
#include "common/params.cuh"
#include "common/reduce.cuh"
#include "dense/span.cuh"

#include <cstddef>

constexpr int kThreads = 256;

// Mirrors `Scalars` in src/cuda/group_norm.rs.
struct Scalars {
  long long vectors;  // spans of threads in x
  int pixels;         // of an image
  int channels;
  int groups;
  int chunk;          // pixels of a block of the sums
  int chunks;
  float epsilon;
  int activation;
  int wide;
  Divisor by_channels, by_pixels, by_width;  // the last is of a group
};
static_assert(sizeof(Scalars) == 64, "mirrored by the host");
static_assert(offsetof(Scalars, wide) == 36, "mirrored by the host");

template <typename T>
__device__ __forceinline__ void group_norm_sums(const Scalars& s, const T* x, double2* sums) {
  extern __shared__ double2 of_channels[];
  // Threads side by side take channels side by side; what is left of the block takes other pixels.
  const int lanes = max(1, kThreads / s.channels);
  const int first = blockIdx.x * s.chunk;
  const int last = min(s.pixels, first + s.chunk);
  x += 1LL * blockIdx.y * s.pixels * s.channels;
  for (int place = threadIdx.x; place < lanes * s.channels; place += kThreads) {
    const int channel = place % s.channels;
    double sum = 0.0, squares = 0.0;
    for (int pixel = first + place / s.channels; pixel < last; pixel += lanes) {
      const double value = to_float(x[1LL * pixel * s.channels + channel]);
      sum += value;
      squares += value * value;
    }
    of_channels[place] = make_double2(sum, squares);
  }
  // Groups add what the threads of their channels found.
  __syncthreads();
  const int width = s.channels / s.groups;
  for (int group = threadIdx.x; group < s.groups; group += kThreads) {
    double2 total = make_double2(0.0, 0.0);
    for (int lane = 0; lane < lanes; ++lane) {
      for (int i = 0; i < width; ++i) {
        const double2 part = of_channels[lane * s.channels + group * width + i];
        total.x += part.x;
        total.y += part.y;
      }
    }
    sums[(1LL * blockIdx.y * s.chunks + blockIdx.x) * s.groups + group] = total;
  }
}

extern "C" __global__ void group_norm_moments_f64(Scalars s, const double2* sums, float2* moments) {
  const int group = blockIdx.x;
  sums += 1LL * blockIdx.y * s.chunks * s.groups + group;
  double sum = 0.0, squares = 0.0;
  for (int chunk = threadIdx.x; chunk < s.chunks; chunk += 32) {
    sum += sums[1LL * chunk * s.groups].x;
    squares += sums[1LL * chunk * s.groups].y;
  }
  sum = warp_sum(sum);
  squares = warp_sum(squares);
  if (threadIdx.x != 0) return;
  const double count = 1.0 * s.pixels * (s.channels / s.groups);
  const double mean = sum / count;
  // NaN, which a comparison fails, stays NaN.
  const double difference = squares / count - mean * mean;
  const double variance = difference < 0.0 ? 0.0 : difference;
  moments[1LL * blockIdx.y * s.groups + group] = make_float2(
      static_cast<float>(mean), static_cast<float>(1.0 / sqrt(variance + s.epsilon)));
}

template <typename T>
__device__ __forceinline__ void group_norm_apply(const Scalars& s, const T* x, const T* weight,
                                                 const T* bias, const float2* moments, T* out) {
  const long long vector = 1LL * blockIdx.x * kThreads + threadIdx.x;
  if (vector >= s.vectors) return;
  const int step = span<T>(s.wide);
  const long long at = vector * step;
  const Split pixel = split(at, s.channels, s.by_channels);
  const int channel = static_cast<int>(pixel.remainder);
  moments += split(pixel.quotient, s.pixels, s.by_pixels).quotient * s.groups;
  const int width = s.channels / s.groups;
  float values[kVector<T>], weights[kVector<T>], biases[kVector<T>];
  load_span(x + at, values, s.wide);
  load_span(weight + channel, weights, s.wide);
  load_span(bias + channel, biases, s.wide);
  int group = divide(channel, s.by_width);
  int next = (group + 1) * width;
  float2 moment = moments[group];
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    if (i >= step) break;
    if (channel + i == next) {
      moment = moments[++group];
      next += width;
    }
    const float normal = (values[i] - moment.x) * moment.y;
    values[i] = activate(normal * weights[i] + biases[i], s.activation);
  }
  store_span(out + at, values, s.wide);
}

extern "C" __global__ void group_norm_sums_f32(Scalars s, const float* x, double2* sums) {
  group_norm_sums(s, x, sums);
}
extern "C" __global__ void group_norm_sums_f16(Scalars s, const __half* x, double2* sums) {
  group_norm_sums(s, x, sums);
}
extern "C" __global__ void group_norm_sums_bf16(Scalars s, const __nv_bfloat16* x, double2* sums) {
  group_norm_sums(s, x, sums);
}

extern "C" __global__ void group_norm_apply_f32(Scalars s, const float* x, const float* weight,
                                                const float* bias, const float2* moments,
                                                float* out) {
  group_norm_apply(s, x, weight, bias, moments, out);
}
extern "C" __global__ void group_norm_apply_f16(Scalars s, const __half* x, const __half* weight,
                                                const __half* bias, const float2* moments,
                                                __half* out) {
  group_norm_apply(s, x, weight, bias, moments, out);
}
extern "C" __global__ void group_norm_apply_bf16(Scalars s, const __nv_bfloat16* x,
                                                 const __nv_bfloat16* weight,
                                                 const __nv_bfloat16* bias, const float2* moments,
                                                 __nv_bfloat16* out) {
  group_norm_apply(s, x, weight, bias, moments, out);
}
