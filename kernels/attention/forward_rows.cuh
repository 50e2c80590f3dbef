// What the forward kernels of 16-bit elements do with rows of queries whose scores and outputs lie in
// registers as C fragments: masks, the running softmax, dropout, and the way to global memory.
#pragma once

#include "attention/dropout.cuh"
#include "attention/non_finite.cuh"
#include "attention/sequence.cuh"
#include "attention/softmax.cuh"
#include "common/opaque.cuh"
#include "common/swizzled_tile.cuh"

// One head of one sequence; or, where GROUPED, the query heads that share a key head, the rows being
// their (query, head) pairs with the head running faster.
template <typename T, bool GROUPED = false>
struct Head {
  const AttentionScalars& scalars;
  Sequence sequence;
  int number;     // b * H + h, of the first head
  const T* v;     // values in global memory
  const T* bias;  // of the first head, or null
  bool plain;     // tiles that are seen whole may take the plain way

  __device__ __forceinline__ int query_of(int row) const {
    return GROUPED ? divide(row, scalars.by_group) : row;
  }
  // Heads after the first.
  __device__ __forceinline__ int head_of(int row) const {
    return GROUPED ? row - query_of(row) * (scalars.heads / scalars.kv_heads) : 0;
  }
};

// Whether scores are products times a positive scale, and nothing else.
__device__ __forceinline__ bool is_plain(const AttentionScalars& scalars, const void* bias) {
  return bias == nullptr && scalars.softcap == 0.0f && scalars.dropout_threshold == 0 &&
         scalars.scale > 0.0f;
}

template <bool GROUPED = false, typename T>
__device__ __forceinline__ Head<T, GROUPED> head_at(const AttentionScalars& scalars,
                                                    const Sequence& sequence, int head, const T* v,
                                                    const T* bias, int columns) {
  const bool plain = is_plain(scalars, bias) && scalars.head_dim == columns;
  if (bias != nullptr) bias += sequence.batch * scalars.bias_batch + head * scalars.bias_head;
  return {scalars, sequence, sequence.batch * scalars.heads + head, v, bias, plain};
}

// M x 16 queries: their outputs so far as C fragments, scaled by 2^-peak, and of rows
// fragment_row() + 8 i the largest score in base 2 and this lane's part of the sum.
template <int D, int M>
struct Rows {
  float out[M][D / 8][4];
  float peak[2 * M];
  float sum[2 * M];
};

template <int D, int M>
__device__ __forceinline__ void clear(Rows<D, M>& rows) {
#pragma unroll
  for (int i = 0; i < M * (D / 8) * 4; ++i) rows.out[i / (D / 2)][i / 4 % (D / 8)][i % 4] = 0.0f;
#pragma unroll
  for (int i = 0; i < 2 * M; ++i) {
    rows.peak[i] = -kInfinity;
    rows.sum[i] = 0.0f;
  }
}

// From q . k to scores in base 2: scale, cap, bias, and -infinity where a query does not see a key.
// The rows start at `first`, the columns at `key`.
template <typename T, bool GROUPED, int M, int N>
__device__ __forceinline__ void shape(float (&scores)[M][N][4], const Head<T, GROUPED>& head,
                                      int first, int key, bool whole) {
  const AttentionScalars& scalars = head.scalars;
  const float cap = scalars.softcap;
  const float scale = cap > 0.0f ? scalars.scale / cap : scalars.scale * kLog2E;
  // The four rows' bounds and biases are cheaper to compute again than to keep.
  first = opaque(first);
#pragma unroll
  for (int i = 0; i < M * N * 4; ++i) {
    float& s = scores[i / (4 * N)][i / 4 % N][i % 4];
    s *= scale;
    if (cap > 0.0f) s = cap * kLog2E * tanh_approximate(s);
  }
#pragma unroll
  for (int i = 0; i < 2 * M; ++i) {
    const int row = first + 8 * i + fragment_row();
    const int query = head.query_of(row);
    if (head.bias != nullptr && query < scalars.queries) {
      const T* bias = head.bias + head.head_of(row) * scalars.bias_head +
                      1LL * query * scalars.keys + key + fragment_column();
      const int keys = scalars.keys - key - fragment_column();
#pragma unroll
      for (int n = 0; n < 2 * N; ++n) {
        const int place = n / 2 * 8 + n % 2;
        if (place >= keys) continue;
        float& s = scores[i / 2][n / 2][i % 2 * 2 + n % 2];
        s = fmaf(to_float(bias[place]), kLog2E, s);
      }
    }
    if (whole) continue;
    const Range seen = seen_by(scalars, head.sequence, query);
    const int begin = seen.begin - key - fragment_column();
    const int end = seen.end - key - fragment_column();
#pragma unroll
    for (int n = 0; n < 2 * N; ++n) {
      const int place = n / 2 * 8 + n % 2;
      if (place < begin || place >= end) scores[i / 2][n / 2][i % 2 * 2 + n % 2] = -kInfinity;
    }
  }
}

// Takes a tile's scores into the running softmax: they become 2^(multiplier * score - peak). What the
// rows hold is to be scaled by `correction`, whether by anything but 1 in some lane of the warp is
// returned. All lanes take part.
template <int D, int M, int N>
__device__ __forceinline__ bool exponentiate(float (&scores)[M][N][4], Rows<D, M>& rows,
                                             float multiplier, float (&correction)[2 * M]) {
  bool changed = false;
#pragma unroll
  for (int i = 0; i < 2 * M; ++i) {
    float peak = -kInfinity;
#pragma unroll
    for (int n = 0; n < 2 * N; ++n) peak = fmaxf(peak, scores[i / 2][n / 2][i % 2 * 2 + n % 2]);
    peak = fmaxf(rows.peak[i], row_max(peak) * multiplier);
    changed |= peak != rows.peak[i];
    const float base = finite_peak(peak);
    correction[i] = exp2_approximate(rows.peak[i] - base);
    rows.peak[i] = peak;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < 2 * N; ++n) {
      float& s = scores[i / 2][n / 2][i % 2 * 2 + n % 2];
      s = exp2_approximate(fmaf(s, multiplier, -base));
      sum += s;
    }
    rows.sum[i] = fmaf(rows.sum[i], correction[i], sum);
  }
  return __any_sync(kFullWarp, changed);
}

// Scales the outputs so far.
template <int D, int M>
__device__ __forceinline__ void rescale(Rows<D, M>& rows, const float (&correction)[2 * M]) {
#pragma unroll
  for (int i = 0; i < M * (D / 8) * 4; ++i) {
    const int m = i / (D / 2);
    rows.out[m][i / 4 % (D / 8)][i % 4] *= correction[2 * m + i % 4 / 2];
  }
}

// Both.
template <int D, int M, int N>
__device__ __forceinline__ void normalise(float (&scores)[M][N][4], Rows<D, M>& rows,
                                          float multiplier) {
  float correction[2 * M];
  // Peaks seldom rise after the first tiles: a product with 1 is left out for the whole warp.
  if (exponentiate(scores, rows, multiplier, correction)) rescale(rows, correction);
}

// Zeros what dropout takes. All lanes take part.
template <typename T, bool GROUPED, int M, int N>
__device__ __forceinline__ void drop(float (&scores)[M][N][4], const Head<T, GROUPED>& head,
                                     int first, int key) {
  constexpr int kAtATime = 8;  // fragments, of which a register has four bits each
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int from = 0; from < N; from += kAtATime) {
      constexpr int kLast = N % kAtATime;
      const int count = from + kAtATime <= N ? kAtATime : kLast;
      unsigned kept = 0;
#pragma unroll 1  // so that the generator's code is there once
      for (int n = 0; n < count; ++n) {
        const int row = first + 16 * m + drawn_row();
        const int number = head.number + head.head_of(row);
        const int group = key / 4 + 2 * (from + n) + drawn_group();
        const unsigned drawn = kept_keys(head.scalars, number, head.query_of(row), group);
        kept |= kept_of_pair(drawn) << (4 * n);
      }
#pragma unroll
      for (int i = 0; i < 4 * kAtATime; ++i) {
        if (from + i / 4 < N && (kept >> i & 1) == 0) scores[m][from + i / 4][i % 4] = 0.0f;
      }
    }
  }
}

// Which part of the tile of KEYS keys from `key` the queries [first, last] see.
struct Sight {
  int keys;    // none from here on; 0 where the tile is not seen at all
  bool whole;  // each query sees each key
};

template <int KEYS>
__device__ __forceinline__ Sight sight(const AttentionScalars& scalars, const Sequence& sequence,
                                       int first, int last, int key) {
  const Range some = seen_by_any(scalars, sequence, first, last);
  const Range all = seen_by_all(scalars, sequence, first, last);
  const bool none = last < first || some.begin >= key + KEYS || some.end <= key ||
                    some.begin >= some.end;
  return {none ? 0 : min(some.end - key, KEYS), all.begin <= key && all.end >= key + KEYS};
}

// Divides by the sums and writes the rows that exist: `out` is the head's output, `lse` its
// log-sum-exps, both at query 0; `query` the first row. The rows pass through `stage`, this warp's
// own M x 16 rows from `stage_row`, to leave as 16-byte stores. All lanes take part.
template <typename T, int D, int M>
__device__ __forceinline__ void finish(Rows<D, M>& rows, const Head<T>& head, T* out, float* lse,
                                       int query, const SwizzledTile<D>& stage, int stage_row) {
  const AttentionScalars& scalars = head.scalars;
  const int queries = head.sequence.queries.count;
  // The lanes have read the queries that lay in the stage.
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 2 * M; ++i) {
    const float sum = row_sum(rows.sum[i]);
    const int row = 8 * i + fragment_row();
    // A row that sees nothing has the sum 0. A NaN passes.
    const float weight = sum == 0.0f ? 0.0f : scalars.kept_scale / sum;
    if (threadIdx.x % 4 == 0 && query + row < queries) {
      lse[query + row] = sum == 0.0f ? -kInfinity : fmaf(rows.peak[i], kLn2, logf(sum));
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const float* from = &rows.out[i / 2][n][i % 2 * 2];
      const float pair[2] = {from[0] * weight, from[1] * weight};
      store_shared(stage.chunk(stage_row + row, n) + 2 * fragment_column(), pack(pair, T()));
    }
  }
  // The lanes read what others wrote.
  __syncwarp();
  constexpr int kChunks = SwizzledTile<D>::kChunks;
  const int lane = threadIdx.x % 32;
  for (int row = lane / kChunks; row < 16 * M; row += 32 / kChunks) {
    const int column = lane % kChunks;
    if (query + row >= queries || 8 * column >= scalars.head_dim) break;
    T* to = out + (query + row) * scalars.out.token + 8 * column;
    __stwb(reinterpret_cast<uint4*>(to), load_shared(stage.chunk(stage_row + row, column)));
  }
}

// Zeros out and -infinity in lse for tokens [first, end) of a head, which no sequence has. The first
// `threads` threads of the block take part.
template <typename T>
__device__ __forceinline__ void write_unseen(const AttentionScalars& scalars, T* out, float* lse,
                                             int first, int end, int threads) {
  // A warp takes a row: all the chunks of all rows may be more than an int counts.
  for (int token = first + threadIdx.x / 32; token < end; token += threads / 32) {
    for (int column = threadIdx.x % 32 * kVector<T>; column < scalars.head_dim;
         column += 32 * kVector<T>) {
      T* to = out + token * scalars.out.token + column;
      __stwb(reinterpret_cast<uint4*>(to), make_uint4(0, 0, 0, 0));
    }
  }
  for (int token = first + threadIdx.x; token < end; token += threads) lse[token] = -kInfinity;
}

// The same for all the tokens beside a packed sequence; `out` and `lse` are the head's, at token 0.
template <typename T>
__device__ __forceinline__ void write_between(const AttentionScalars& scalars,
                                              const Sequence& sequence, T* out, float* lse,
                                              int threads) {
  const Tokens& tokens = sequence.queries;
  if (sequence.batch == 0) write_unseen(scalars, out, lse, 0, tokens.first, threads);
  write_unseen(scalars, out, lse, tokens.first + tokens.count, tokens.end, threads);
}
