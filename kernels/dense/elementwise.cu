// Ops on elements alone: activations, image normalisation, embeddings, position terms. A thread makes
// 16 bytes of the output, or one element.
//
// Reads:   x [.., C] T and, by op: mean and scale [C] f32; indices [R] i32 and table [V, D] T; x [B,
//          N, D] T or null, prefix [S, D] T or null and positions [S + N, D] T
// Writes:  out T
// Launch:  <<<blocks, 256>>>, a thread for each span of the output
// Order:   each thread by itself
// Cost:    each input once, each output once
// Source:  torch.nn.functional.embedding; Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021,
//          equation 1, for prefix and positions
// archs: sm_80

#include "common/activation.cuh"
#include "common/params.cuh"
#include "dense/span.cuh"

#include <cstddef>

constexpr int kThreads = 256;

// Mirrors `Scalars` in src/cuda/elementwise.rs.
struct Scalars {
  long long vectors;      // spans of the output
  long long row_vectors;  // spans of its innermost extent
  long long rows;         // of the table, or tokens of an output sequence
  long long prefix;       // tokens
  Divisor by_row_vectors;
  Divisor by_rows;        // of an output sequence
  int activation;
  int wide;
};
static_assert(sizeof(Scalars) == 56, "mirrored by the host");
static_assert(offsetof(Scalars, wide) == 52, "mirrored by the host");

__device__ __forceinline__ long long this_vector() {
  return 1LL * blockIdx.x * kThreads + threadIdx.x;
}

template <typename T>
__device__ __forceinline__ void activation(const Scalars& s, const T* x, T* out) {
  const long long vector = this_vector();
  if (vector >= s.vectors) return;
  const int step = span<T>(s.wide);
  float values[kVector<T>];
  load_span(x + vector * step, values, s.wide);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] = activate(values[i], s.activation);
  store_span(out + vector * step, values, s.wide);
}

// Channels are few (3 of an image), so that elements are taken one by one.
template <typename T>
__device__ __forceinline__ void normalize_image(const Scalars& s, const T* x, const float* mean,
                                                const float* scale, T* out) {
  const long long at = this_vector();
  if (at >= s.vectors) return;
  const long long channel = split(at, s.row_vectors, s.by_row_vectors).remainder;
  out[at] = from_float<T>((to_float(x[at]) - mean[channel]) * scale[channel]);
}

template <typename T>
__device__ __forceinline__ void embedding(const Scalars& s, const T* table, const int* indices,
                                          T* out) {
  const long long vector = this_vector();
  if (vector >= s.vectors) return;
  const int step = span<T>(s.wide);
  const Split token = split(vector, s.row_vectors, s.by_row_vectors);
  const int index = indices[token.quotient];
  float values[kVector<T>] = {};
  if (index >= 0 && index < s.rows) {
    load_span(table + (index * s.row_vectors + token.remainder) * step, values, s.wide);
  }
  store_span(out + vector * step, values, s.wide);
}

template <typename T>
__device__ __forceinline__ void add_positions(const Scalars& s, const T* x, const T* prefix,
                                              const T* positions, T* out) {
  const long long vector = this_vector();
  if (vector >= s.vectors) return;
  const int step = span<T>(s.wide);
  const auto [tokens, column] = split(vector, s.row_vectors, s.by_row_vectors);
  const auto [sequence, token] = split(tokens, s.rows, s.by_rows);
  const long long own = sequence * (s.rows - s.prefix) + token - s.prefix;
  const T* from = token < s.prefix ? prefix + (token * s.row_vectors + column) * step
                                   : x + (own * s.row_vectors + column) * step;
  float values[kVector<T>], added[kVector<T>];
  load_span(from, values, s.wide);
  load_span(positions + (token * s.row_vectors + column) * step, added, s.wide);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] += added[i];
  store_span(out + vector * step, values, s.wide);
}

extern "C" __global__ void activation_f32(Scalars s, const float* x, float* out) {
  activation(s, x, out);
}
extern "C" __global__ void activation_f16(Scalars s, const __half* x, __half* out) {
  activation(s, x, out);
}
extern "C" __global__ void activation_bf16(Scalars s, const __nv_bfloat16* x, __nv_bfloat16* out) {
  activation(s, x, out);
}

extern "C" __global__ void normalize_image_f32(Scalars s, const float* x, const float* mean,
                                               const float* scale, float* out) {
  normalize_image(s, x, mean, scale, out);
}
extern "C" __global__ void normalize_image_f16(Scalars s, const __half* x, const float* mean,
                                               const float* scale, __half* out) {
  normalize_image(s, x, mean, scale, out);
}
extern "C" __global__ void normalize_image_bf16(Scalars s, const __nv_bfloat16* x,
                                                const float* mean, const float* scale,
                                                __nv_bfloat16* out) {
  normalize_image(s, x, mean, scale, out);
}

extern "C" __global__ void embedding_f32(Scalars s, const float* table, const int* indices,
                                         float* out) {
  embedding(s, table, indices, out);
}
extern "C" __global__ void embedding_f16(Scalars s, const __half* table, const int* indices,
                                         __half* out) {
  embedding(s, table, indices, out);
}
extern "C" __global__ void embedding_bf16(Scalars s, const __nv_bfloat16* table, const int* indices,
                                          __nv_bfloat16* out) {
  embedding(s, table, indices, out);
}

extern "C" __global__ void add_positions_f32(Scalars s, const float* x, const float* prefix,
                                             const float* positions, float* out) {
  add_positions(s, x, prefix, positions, out);
}
extern "C" __global__ void add_positions_f16(Scalars s, const __half* x, const __half* prefix,
                                             const __half* positions, __half* out) {
  add_positions(s, x, prefix, positions, out);
}
extern "C" __global__ void add_positions_bf16(Scalars s, const __nv_bfloat16* x,
                                              const __nv_bfloat16* prefix,
                                              const __nv_bfloat16* positions, __nv_bfloat16* out) {
  add_positions(s, x, prefix, positions, out);
}
