// Ops that move over images [B, H, W, C]: max pooling, nearest upsampling with addition, bilinear
// resizing. A thread makes 16 bytes of neighbouring channels of one output pixel, or one element.
//
// Reads:   x [B, H, W, C] T; upsampling besides skip [B, H', W', C] T
// Writes:  out [B, H', W', C] T
// Launch:  <<<blocks, 256>>>, a thread for each span of the output
// Order:   each thread by itself
// Cost:    out (and skip) once; x once for each window that holds it, from the caches but for the
//          first time
// Source:  torch.nn.functional.max_pool2d and interpolate (bilinear, without aligned corners, with
//          and without antialiasing; nearest)
// archs: sm_80

#include "common/maximum.cuh"
#include "common/params.cuh"
#include "dense/span.cuh"

#include <cmath>
#include <cstddef>

constexpr int kThreads = 256;

// Mirrors `Scalars` in src/cuda/spatial.rs.
struct Scalars {
  long long vectors;   // spans of the output
  int height, width;   // of the input
  int out_height, out_width;
  int row_vectors;     // spans of a pixel
  int kernel, stride, padding;  // of pooling
  int antialias;       // of resizing
  int wide;
  float y_scale, x_scale;  // of upsampling: input by output extents
  Divisor by_row_vectors, by_out_height, by_out_width;
};
static_assert(sizeof(Scalars) == 80, "mirrored by the host");
static_assert(offsetof(Scalars, wide) == 44, "mirrored by the host");

// Where a thread's span is in the output.
struct Place {
  long long image;
  int y, x;
  long long channel;  // spans before it in its pixel

  __device__ __forceinline__ Place(long long vector, const Scalars& s) {
    const Split pixel = split(vector, s.row_vectors, s.by_row_vectors);
    const Split row = split(pixel.quotient, s.out_width, s.by_out_width);
    const Split height = split(row.quotient, s.out_height, s.by_out_height);
    image = height.quotient;
    y = static_cast<int>(height.remainder);
    x = static_cast<int>(row.remainder);
    channel = pixel.remainder;
  }

  // The span of input pixel (y, x) of the same image and channels.
  __device__ __forceinline__ long long input(int y, int x, const Scalars& s) const {
    return ((image * s.height + y) * s.width + x) * s.row_vectors + channel;
  }
};

__device__ __forceinline__ long long this_vector() {
  return 1LL * blockIdx.x * kThreads + threadIdx.x;
}

template <typename T>
__device__ __forceinline__ void max_pool2d(const Scalars& s, const T* x, T* out) {
  const long long vector = this_vector();
  if (vector >= s.vectors) return;
  const Place place(vector, s);
  const int step = span<T>(s.wide);
  const int top = place.y * s.stride - s.padding, left = place.x * s.stride - s.padding;
  float largest[kVector<T>];
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) largest[i] = -INFINITY;
  for (int y = max(top, 0); y < min(top + s.kernel, s.height); ++y) {
    for (int column = max(left, 0); column < min(left + s.kernel, s.width); ++column) {
      float values[kVector<T>];
      load_span(x + place.input(y, column, s) * step, values, s.wide);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) largest[i] = max_or_nan(largest[i], values[i]);
    }
  }
  store_span(out + vector * step, largest, s.wide);
}

template <typename T>
__device__ __forceinline__ void upsample_nearest_add(const Scalars& s, const T* x, const T* skip,
                                                     T* out) {
  const long long vector = this_vector();
  if (vector >= s.vectors) return;
  const Place place(vector, s);
  const int step = span<T>(s.wide);
  // In f32 and this order, as PyTorch has it.
  const int y = min(static_cast<int>(floorf(place.y * s.y_scale)), s.height - 1);
  const int column = min(static_cast<int>(floorf(place.x * s.x_scale)), s.width - 1);
  float values[kVector<T>], added[kVector<T>];
  load_span(x + place.input(y, column, s) * step, values, s.wide);
  load_span(skip + vector * step, added, s.wide);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] += added[i];
  store_span(out + vector * step, values, s.wide);
}

// The inputs along one axis that an output is made of, and their weights, in whole numbers: with n
// inputs and m outputs, the center of output i lies at (2 i + 1) n / (2 m), that of input j at
// j + 1/2. The weight falls off linearly to 0 at a distance of 1, or with antialiasing of n / m where
// that is more.
struct Axis {
  long long center;  // times 2 m
  int outputs;       // m
  int reach;         // that distance, times m
  int first, last;   // inputs, last not included

  __device__ __forceinline__ Axis(int place, int inputs, int outputs, bool antialias)
      : outputs(outputs) {
    center = (2LL * place + 1) * inputs;
    reach = antialias ? max(inputs, outputs) : outputs;
    // The first with j + 1/2 > center - reach, the last with j + 1/2 < center + reach.
    const long long low = center - 2LL * reach - outputs;
    const long long high = center + 2LL * reach - outputs;
    first = low < 0 ? 0 : static_cast<int>(low / (2LL * outputs)) + 1;
    last = min(inputs, static_cast<int>((high + 2LL * outputs - 1) / (2LL * outputs)));
  }

  __device__ __forceinline__ float weight(int input) const {
    const long long distance = llabs((2LL * input + 1) * outputs - center);
    return 1.0f - static_cast<float>(distance) / (2.0f * reach);
  }

  __device__ __forceinline__ float sum() const {
    float sum = 0.0f;
    for (int input = first; input < last; ++input) sum += weight(input);
    return sum;
  }
};

template <typename T>
__device__ __forceinline__ void resize_bilinear(const Scalars& s, const T* x, T* out) {
  const long long vector = this_vector();
  if (vector >= s.vectors) return;
  const Place place(vector, s);
  const int step = span<T>(s.wide);
  const Axis rows(place.y, s.height, s.out_height, s.antialias);
  const Axis columns(place.x, s.width, s.out_width, s.antialias);
  // At an edge the inputs beyond it are missing, and the rest is weighted up.
  const float by_row = 1.0f / rows.sum(), by_column = 1.0f / columns.sum();
  float sums[kVector<T>] = {};
  for (int y = rows.first; y < rows.last; ++y) {
    float line[kVector<T>] = {};
    for (int column = columns.first; column < columns.last; ++column) {
      float values[kVector<T>];
      load_span(x + place.input(y, column, s) * step, values, s.wide);
      const float weight = columns.weight(column) * by_column;
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) line[i] += weight * values[i];
    }
    const float weight = rows.weight(y) * by_row;
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) sums[i] += weight * line[i];
  }
  store_span(out + vector * step, sums, s.wide);
}

extern "C" __global__ void max_pool2d_f32(Scalars s, const float* x, float* out) {
  max_pool2d(s, x, out);
}
extern "C" __global__ void max_pool2d_f16(Scalars s, const __half* x, __half* out) {
  max_pool2d(s, x, out);
}
extern "C" __global__ void max_pool2d_bf16(Scalars s, const __nv_bfloat16* x, __nv_bfloat16* out) {
  max_pool2d(s, x, out);
}

extern "C" __global__ void upsample_nearest_add_f32(Scalars s, const float* x, const float* skip,
                                                    float* out) {
  upsample_nearest_add(s, x, skip, out);
}
extern "C" __global__ void upsample_nearest_add_f16(Scalars s, const __half* x, const __half* skip,
                                                    __half* out) {
  upsample_nearest_add(s, x, skip, out);
}
extern "C" __global__ void upsample_nearest_add_bf16(Scalars s, const __nv_bfloat16* x,
                                                     const __nv_bfloat16* skip,
                                                     __nv_bfloat16* out) {
  upsample_nearest_add(s, x, skip, out);
}

extern "C" __global__ void resize_bilinear_f32(Scalars s, const float* x, float* out) {
  resize_bilinear(s, x, out);
}
extern "C" __global__ void resize_bilinear_f16(Scalars s, const __half* x, __half* out) {
  resize_bilinear(s, x, out);
}
extern "C" __global__ void resize_bilinear_bf16(Scalars s, const __nv_bfloat16* x,
                                                __nv_bfloat16* out) {
  resize_bilinear(s, x, out);
}
