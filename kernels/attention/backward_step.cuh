// One step of the attention backward: between the rows that a warp owns and a few columns that are
// streamed past it, scores and their gradient, and what these add to the rows' sums. All 32 lanes
// of a warp take part in each function.
//
// The rows are keys where KEY_ROWS holds, and queries otherwise; the columns are the other ones.
// A score tile is float[M][N][4]: M by N of the C of common/mma.cuh, 16 rows by 8 columns each.
#pragma once

#include "attention/backward_scalars.cuh"
#include "attention/dropout.cuh"
#include "attention/isolation.cuh"
#include "attention/sequence.cuh"
#include "attention/softmax.cuh"
#include "common/mma.cuh"
#include "common/shared.cuh"
#include "common/swizzled_tile.cuh"

// products = rows * columns^T over head_dim: `rows` [16 M, D] and `columns` [8 N, D]; `steps` is
// head_dim in the 16 elements that an instruction adds up.
template <typename T, int D, int M, int N>
__device__ __forceinline__ void multiply_rows(float (&products)[M][N][4], SwizzledTile<D> rows,
                                              SwizzledTile<D> columns, int steps) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) products[m][n][e] = 0.0f;
    }
  }
#pragma unroll 4
  for (int step = 0; step < steps; ++step) {
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrices(a[m], rows.by_rows(16 * m, 2 * step));
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      unsigned b[4];
      load_matrices(b, columns.by_columns(8 * n, 2 * step));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply_add(products[m][n], a[m], b[0], b[1], T());
        multiply_add(products[m][n + 1], a[m], b[2], b[3], T());
      }
    }
  }
}

// What a warp works on: its sequence, the query head and the buffers' parts that belong to them.
template <typename T>
struct Head {
  const AttentionScalars& scalars;
  const Sequence& sequence;
  const T* bias;  // of this head, or null
  int number;     // b * H + h

  __device__ __forceinline__ Head(const AttentionScalars& scalars, const Sequence& sequence,
                                  const T* biases, int head)
      : scalars(scalars), sequence(sequence), number(sequence.batch * scalars.heads + head) {
    const long long start = sequence.batch * scalars.bias_batch + head * scalars.bias_head;
    bias = biases == nullptr ? nullptr : biases + start;
  }
};

// Where a score tile lies in its sequence: its first row and column.
template <bool KEY_ROWS>
struct Place {
  int row;
  int column;

  // Query and key of element e of the tile (m, n).
  __device__ __forceinline__ int query(int m, int n, int e) const {
    return KEY_ROWS ? of_column(n, e) : of_row(m, e);
  }
  __device__ __forceinline__ int key(int m, int n, int e) const {
    return KEY_ROWS ? of_row(m, e) : of_column(n, e);
  }
  __device__ __forceinline__ int of_row(int m, int e) const {
    return row + 16 * m + fragment_row() + 8 * (e / 2);
  }
  __device__ __forceinline__ int of_column(int n, int e) const {
    return column + 8 * n + fragment_column() + e % 2;
  }
};

// A statistic of queries which are rows: that of query row + fragment_row() + 16 m + 8 half.
template <int M>
struct RowStatistic {
  float of[M][2];

  // Every row's statistic exists, `from` being that of the tile's first row.
  __device__ __forceinline__ explicit RowStatistic(const float* from) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) of[m][half] = from[16 * m + fragment_row() + 8 * half];
    }
  }
  __device__ __forceinline__ float operator()(int m, int, int e) const { return of[m][e / 2]; }
};

// The same of queries which are columns, at `address` in shared memory.
template <int N>
struct ColumnStatistic {
  float2 of[N];

  __device__ __forceinline__ explicit ColumnStatistic(unsigned address) {
#pragma unroll
    for (int n = 0; n < N; ++n) of[n] = load_shared_floats(address + 4 * (8 * n + fragment_column()));
  }
  __device__ __forceinline__ float operator()(int, int n, int e) const {
    return e % 2 == 0 ? of[n].x : of[n].y;
  }
};

// Applies `each(m, n, e)` to each element of a score tile, column by column.
template <int M, int N, typename Each>
__device__ __forceinline__ void for_each_element(const Each& each) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) each(m, n, e);
    }
  }
}

// Bit e of kept[m][n] says whether dropout keeps element e of that tile.
template <bool KEY_ROWS, typename T, int M, int N>
__device__ __forceinline__ void draw(unsigned (&kept)[M][N], const Head<T>& head,
                                     const Place<KEY_ROWS>& place) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int row = place.row + 16 * m;
      const int column = place.column + 8 * n;
      kept[m][n] = KEY_ROWS
                       ? kept_in_transposed_fragment(head.scalars, head.number, row, column)
                       : kept_in_fragment(head.scalars, head.number, row, column);
    }
  }
}

// Turns q . k, in place, into what is raised to the power of 2 once multiplied by the result, and
// `slopes` by the derivative of the soft cap, 1 - tanh^2, where RAW wants that of q . k.
template <bool KEY_ROWS, bool RAW, typename T, int M, int N>
__device__ __forceinline__ float cap_and_bias(float (&scores)[M][N][4], float (&slopes)[M][N][4],
                                              const Head<T>& head, const Place<KEY_ROWS>& place) {
  const AttentionScalars& scalars = head.scalars;
  float unit = scalars.scale * kLog2E;
  if (scalars.softcap != 0.0f) {
    const float inner = scalars.scale / scalars.softcap;
    unit = scalars.softcap * kLog2E;
    for_each_element<M, N>([&](int m, int n, int e) {
      const float x = scores[m][n][e] * inner;
      scores[m][n][e] = tanh_approximate(x);
      if (RAW) slopes[m][n][e] *= tanh_slope_approximate(x);
    });
  }
  if (head.bias != nullptr) {
    for_each_element<M, N>([&](int m, int n, int e) {
      const int query = place.query(m, n, e);
      const int key = place.key(m, n, e);
      const bool exists = query < scalars.queries && key < scalars.keys;
      const float bias = exists ? to_float(head.bias[1LL * query * scalars.keys + key]) : 0.0f;
      scores[m][n][e] = fmaf(scores[m][n][e], unit, bias * kLog2E);
    });
    unit = 1.0f;
  }
  return unit;
}

// From products to weights, in place. `scores`, q . k, become the probabilities that multiply dout
// in dv; `slopes`, dout . v, become `factor` times the gradient of q . k / scale (RAW) or of the
// score with its bias:
//   p = exp(cap tanh(scale q.k / cap) + bias - lse);  ds = p (dout.v - delta) (1 - tanh^2)
// log_sum_exp(m, n, e), in base 2, and delta(m, n, e) are those of the element's query. `masked`:
// some pairs of the tile may not see each other.
template <bool KEY_ROWS, bool RAW, typename T, int M, int N, typename LogSumExp, typename Delta>
__device__ __forceinline__ void differentiate(float (&scores)[M][N][4], float (&slopes)[M][N][4],
                                              const Head<T>& head, const Place<KEY_ROWS>& place,
                                              float factor, bool masked,
                                              const LogSumExp& log_sum_exp, const Delta& delta) {
  const bool dropout = head.scalars.dropout_threshold != 0;
  const float kept_scale = head.scalars.kept_scale;
  unsigned kept[M][N];
  if (dropout) {
    draw(kept, head, place);
    for_each_element<M, N>([&](int m, int n, int e) {
      slopes[m][n][e] = kept[m][n] >> e & 1 ? slopes[m][n][e] * kept_scale : 0.0f;
    });
  }
  for_each_element<M, N>([&](int m, int n, int e) {
    slopes[m][n][e] = factor * (slopes[m][n][e] - delta(m, n, e));
  });
  const float unit = cap_and_bias<KEY_ROWS, RAW>(scores, slopes, head, place);
  for_each_element<M, N>([&](int m, int n, int e) {
    scores[m][n][e] = exp2_approximate(fmaf(scores[m][n][e], unit, -log_sum_exp(m, n, e)));
    slopes[m][n][e] *= scores[m][n][e];
  });
  if (masked) {
    for_each_element<M, N>([&](int m, int n, int e) {
      const int key = place.key(m, n, e);
      const bool sees = contains(seen_by(head.scalars, head.sequence, place.query(m, n, e)), key);
      slopes[m][n][e] = sees ? slopes[m][n][e] : 0.0f;
      scores[m][n][e] = sees ? scores[m][n][e] : 0.0f;
    });
  }
  if (dropout) {
    // A product, so that a NaN is not dropped.
    for_each_element<M, N>([&](int m, int n, int e) {
      scores[m][n][e] *= kept[m][n] >> e & 1 ? kept_scale : 0.0f;
    });
  }
}

// sums [16 M, D] += weights [16 M, 16 K] * columns [16 K, D].
template <typename T, int D, int M, int K>
__device__ __forceinline__ void accumulate(float (&sums)[M][D / 8][4],
                                           const unsigned (&weights)[M][K][4],
                                           SwizzledTile<D> columns, int steps) {
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    if (d >= steps) break;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      unsigned b[4];
      load_matrices_transposed(b, columns.by_rows(16 * k, 2 * d));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply_add(sums[m][2 * d], weights[m][k], b[0], b[1], T());
        multiply_add(sums[m][2 * d + 1], weights[m][k], b[2], b[3], T());
      }
    }
  }
}

// The left operand that is 1 where a row sees a column of the k-th 16, and else 0.
template <bool KEY_ROWS, typename T>
__device__ __forceinline__ void sight(unsigned (&sees)[4], const Head<T>& head,
                                      const Place<KEY_ROWS>& place, int m, int k) {
  float ones[2][4];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = place.query(m, 2 * k + n, e);
      const Range seen = seen_by(head.scalars, head.sequence, query);
      const bool exists = query < head.sequence.queries.count;
      ones[n][e] = exists && contains(seen, place.key(m, 2 * k + n, e)) ? 1.0f : 0.0f;
    }
  }
  as_left_operand<T>(sees, ones[0], ones[1]);
}

// The same where some pairs may not see each other and some elements of the columns are not
// finite: these reach those rows alone which see them. Rare: kept short by loops that are not
// unrolled, for which the operands move to local memory.
template <bool KEY_ROWS, typename T, typename Tile, int N, int M, int K>
__device__ __forceinline__ void accumulate_isolated(float (&sums)[M][N][4],
                                                    const unsigned (&weights)[M][K][4],
                                                    Tile columns, int steps,
                                                    const Head<T>& head,
                                                    const Place<KEY_ROWS>& place) {
  float local[M][N][4];
  unsigned a[M][K][4];
  for_each_element<M, N>([&](int m, int n, int e) { local[m][n][e] = sums[m][n][e]; });
  for_each_element<M, K>([&](int m, int k, int e) { a[m][k][e] = weights[m][k][e]; });
#pragma unroll 1
  for (int i = 0; i < M * K; ++i) {
    const int m = i / K, k = i % K;
    unsigned sees[4];
    sight(sees, head, place, m, k);
#pragma unroll 1
    for (int d = 0; d < steps; ++d) {
      unsigned b[4], codes[4];
      load_matrices_transposed(b, columns.by_rows(16 * k, 2 * d));
      take_out_non_finite<T>(b, codes);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        multiply_add(local[m][2 * d + n], a[m][k], b[2 * n], b[2 * n + 1], T());
        give_back<T>(local[m][2 * d + n], sees, codes[2 * n], codes[2 * n + 1]);
      }
    }
  }
  for_each_element<M, N>([&](int m, int n, int e) { sums[m][n][e] = local[m][n][e]; });
}

// Adds weights, rounded, times columns to the sums of the rows. `masked`: some pairs may not see
// each other.
template <bool KEY_ROWS, typename T, int D, int M, int N>
__device__ __forceinline__ void add_weighted(float (&sums)[M][D / 8][4],
                                             const float (&weights)[M][N][4],
                                             SwizzledTile<D> columns, const Head<T>& head,
                                             const Place<KEY_ROWS>& place, bool masked) {
  const int steps = (head.scalars.head_dim + 15) / 16;
  unsigned rounded[M][N / 2][4];
  round_scores<T>(rounded, weights);
  if (masked && any_non_finite<T, D, 8 * N>(columns, 2 * steps)) {
    accumulate_isolated(sums, rounded, columns, steps, head, place);
  } else {
    accumulate<T>(sums, rounded, columns, steps);
  }
}

