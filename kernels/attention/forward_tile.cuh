// What a warp of the forward kernels does: M x 16 queries against tiles of 64 keys, with a running
// softmax. The caller brings queries, keys and values to shared memory.
//
// A tile takes one of two ways. The plain one has nothing but the product, the exponential and the
// second product. The general one has every mask, bias, cap and dropout by run-time flags, and
// leaves out keys and columns that are not there, 16 at a time.
#pragma once

#include "attention/forward_rows.cuh"

// What every forward kernel is given first: inputs, and where sequences and lengths end.
#define FORWARD_PARAMETERS(T)                                                                    \
  AttentionScalars scalars, Blocks blocks, const int* kv_lengths, const int* offsets_q,          \
      const int* offsets_k, const T* q, const T* k, const T* v, const T* bias

// Keys of a tile: the scores of 32 queries take 64 registers a lane, beside 128 of the output at
// D = 128.
constexpr int kTileKeys = 64;

template <int M>
using Scores = float[M][kTileKeys / 8][4];

// scores = q k^T of the queries from row `q_row` of `q` and 64 keys from row `k_row` of `k`. Keys
// from `keys` on may be left out, and their scores are 0.
template <typename T, bool WHOLE, int D, int M>
__device__ __forceinline__ void score(Scores<M>& scores, const SwizzledTile<D>& q, int q_row,
                                      const SwizzledTile<D>& k, int k_row, int head_dim, int keys) {
#pragma unroll
  for (int i = 0; i < M * 32; ++i) scores[i / 32][i / 4 % 8][i % 4] = 0.0f;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    if (!WHOLE && 16 * step >= head_dim) break;
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrices(a[m], q.by_rows(q_row + 16 * m, 2 * step));
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      if (!WHOLE && 16 * n >= keys) break;
      unsigned b[4];
      load_matrices(b, k.by_columns(k_row + 16 * n, 2 * step));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply_add(scores[m][2 * n], a[m], b[0], b[1], T());
        multiply_add(scores[m][2 * n + 1], a[m], b[2], b[3], T());
      }
    }
  }
}

// out += probabilities * v, of 64 keys from row `v_row` of `v`. Keys from `keys` on, whose
// probabilities are 0, may be left out.
template <typename T, bool WHOLE, int D, int M>
__device__ __forceinline__ void weigh(Rows<D, M>& rows, const Scores<M>& probabilities,
                                      const SwizzledTile<D>& v, int v_row, int head_dim, int keys) {
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    if (!WHOLE && 16 * step >= keys) break;
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      as_left_operand<T>(a[m], probabilities[m][2 * step], probabilities[m][2 * step + 1]);
    }
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      if (!WHOLE && 16 * n >= head_dim) break;
      unsigned b[4];
      load_matrices_transposed(b, v.by_rows(v_row + 16 * step, 2 * n));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply_add(rows.out[m][2 * n], a[m], b[0], b[1], T());
        multiply_add(rows.out[m][2 * n + 1], a[m], b[2], b[3], T());
      }
    }
  }
}

// One tile of 64 keys from `key`, at row `row` of `v`, once the scores of the rows from `first` are
// computed: masks, softmax, dropout, second product. All lanes take part.
template <typename T, bool PLAIN, bool GROUPED, int D, int M>
__device__ __forceinline__ void absorb(Rows<D, M>& rows, Scores<M>& scores,
                                       const Head<T, GROUPED>& head, const SwizzledTile<D>& v,
                                       int row, int first, int key, Sight sight) {
  const AttentionScalars& scalars = head.scalars;
  if (!PLAIN) shape(scores, head, first, key, sight.whole);
  normalise(scores, rows, PLAIN ? scalars.scale * kLog2E : 1.0f);
  if (!PLAIN && scalars.dropout_threshold != 0) drop(scores, head, first, key);
  weigh<T, PLAIN>(rows, scores, v, row, scalars.head_dim, sight.keys);
}
