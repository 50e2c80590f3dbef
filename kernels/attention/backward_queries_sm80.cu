// Gradient of attention's queries, on tensor cores: a block owns some queries of a head and has the
// keys that they see streamed past.
//
// Reads:   q [B, Nq, H, D], k, v [B, Nk, Hkv, D], dout like q, T, strided; bias [B or 1, H or 1,
//          Nq, Nk] T or null; log_sum_exps, deltas: the statistics of backward_rows.cu; limits
// Writes:  dq [B, Nq, H, D] T, strided
// Launch:  <<<B * H * tiles of queries, Shape::kThreads, Shape::kBytes>>>
// Order:   a block adds the keys of its queries in order: no sum crosses blocks
// Cost:    3 products of 2 Nq Nk D operations a head, halved by a causal mask; the keys and values
//          read once a tile of queries
// Source:  Dao, "FlashAttention-2", 2023, algorithm 2, turned by rows
// archs: sm_80

#include "attention/backward_step.cuh"
#include "attention/backward_write.cuh"

// How a block is laid out. A warp owns 16 M queries; keys come in tiles of COLUMNS through two
// stages, and STEP of them are in registers at a time.
template <int D_, int M_, int WARPS_, int COLUMNS_, int STEP_>
struct QueryBlock {
  static constexpr int D = D_, M = M_, WARPS = WARPS_, COLUMNS = COLUMNS_, STEP = STEP_;
  static constexpr int kThreads = 32 * WARPS;
  static constexpr int kQueries = 16 * M * WARPS;
  static constexpr int kOwnBytes = kQueries * D * 2;   // queries, then output gradients
  static constexpr int kTileBytes = COLUMNS * D * 2;   // keys, then values
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kBytes = 2 * kOwnBytes + 2 * kStageBytes;
  static_assert(kStatisticsGroup % kQueries == 0, "a tile's statistics exist");
};

// 32 queries a warp, so that each operand loaded from shared memory meets 32 rows; the sums of so
// many would not leave room for scores from D = 128 on. 64, 96 and 96 KiB of shared memory fit
// every GPU since sm_80.
using QueryBlock64 = QueryBlock<64, 2, 4, 64, 32>;
using QueryBlock128 = QueryBlock<128, 1, 8, 32, 32>;
using QueryBlock256 = QueryBlock<256, 1, 4, 16, 16>;

// Adds a tile of keys to the warp's sums. `own` holds queries first_query to last_query, some that
// do not exist behind them.
template <typename Shape, typename T>
__device__ __forceinline__ void add_keys(float (&dq)[Shape::M][Shape::D / 8][4],
                                         const Head<T>& head, unsigned own, unsigned stage,
                                         const RowStatistic<Shape::M>& log_sum_exps,
                                         const RowStatistic<Shape::M>& deltas, int first_query,
                                         int last_query, int first_key) {
  constexpr int D = Shape::D, M = Shape::M, N = Shape::STEP / 8;
  const int steps = (head.scalars.head_dim + 15) / 16;
  const Range some = seen_by_any(head.scalars, head.sequence, first_query, last_query);
  const Range all = seen_by_all(head.scalars, head.sequence, first_query, last_query);
  const SwizzledTile<D> q{own}, dout{own + Shape::kOwnBytes};
#pragma unroll 1
  for (int column = 0; column < Shape::COLUMNS; column += Shape::STEP) {
    const Place<false> place{first_query, first_key + column};
    const int end = place.column + Shape::STEP;
    if (place.column >= some.end || end <= some.begin) continue;
    // Keys that do not exist are zeros, but exp(-lse) of theirs may be infinite.
    const bool masked = place.column < all.begin || end > all.end;
    const SwizzledTile<D> k{stage + column * D * 2};
    const SwizzledTile<D> v{k.address + Shape::kTileBytes};
    float scores[M][N][4], slopes[M][N][4];
    multiply_rows<T, D>(scores, q, k, steps);
    multiply_rows<T, D>(slopes, dout, v, steps);
    differentiate<false, true>(scores, slopes, head, place, head.scalars.scale, masked,
                               log_sum_exps, deltas);
    add_weighted<false>(dq, slopes, k, head, place, masked);
  }
}

// Adds all keys that the block's queries, `present` of them, see to the warp's sums. The warp owns
// `rows` queries from `warp_row` of the block's on; `own` is the block's shared memory.
template <typename Shape, typename T>
__device__ __forceinline__ void add_all_keys(float (&dq)[Shape::M][Shape::D / 8][4],
                                             const BackwardScalars& scalars,
                                             const BackwardInputs<T>& inputs,
                                             const Sequence& sequence, int query_head,
                                             unsigned own, int first, int present, int warp_row,
                                             int rows) {
  constexpr int D = Shape::D, M = Shape::M;
  const AttentionScalars& forward = scalars.forward;
  const int kv_head = divide(query_head, forward.by_group);
  const unsigned stages = own + 2 * Shape::kOwnBytes;
  const auto copy = [&](unsigned to, const T* from, const Strides& strides, int key) {
    from += start_of(strides, sequence.batch, sequence.keys, kv_head) + key * strides.token;
    SwizzledTile<D>{to}.copy_rows(from, strides.token, Shape::COLUMNS, sequence.visible - key,
                                  forward.head_dim / 8, threadIdx.x, Shape::kThreads);
  };
  const auto fetch = [&](int tile) {
    const unsigned to = stages + tile % 2 * Shape::kStageBytes;
    copy(to, inputs.k, forward.k, tile * Shape::COLUMNS);
    copy(to + Shape::kTileBytes, inputs.v, forward.v, tile * Shape::COLUMNS);
  };
  const Range seen =
      seen_by_any(forward, sequence, first, first + min(present, Shape::kQueries) - 1);
  const int end = (seen.end + Shape::COLUMNS - 1) / Shape::COLUMNS;
  int tile = seen.begin / Shape::COLUMNS;
  if (tile < end) fetch(tile);
  commit_copies();
  const bool packed = inputs.limits.offsets_q != nullptr;
  const long long statistics =
      statistics_start(scalars, sequence, query_head, packed) + first + warp_row;
  const RowStatistic<M> log_sum_exps(inputs.log_sum_exps + statistics);
  const RowStatistic<M> deltas(inputs.deltas + statistics);
  const Head<T> head(forward, sequence, inputs.bias, query_head);
  const int first_query = first + warp_row;
  for (; tile < end; ++tile) {
    wait_for_copies<0>();
    // This tile's copies are there for all, and all are done with the other stage.
    __syncthreads();
    if (tile + 1 < end) fetch(tile + 1);
    commit_copies();
    if (rows <= 0) continue;
    add_keys<Shape>(dq, head, own + warp_row * D * 2, stages + tile % 2 * Shape::kStageBytes,
                    log_sum_exps, deltas, first_query, first_query + rows - 1,
                    tile * Shape::COLUMNS);
  }
}

// The whole of a block: gradients of queries [kQueries * tile, kQueries * (tile + 1)) of a head.
template <typename Shape, typename T>
__device__ __forceinline__ void query_gradients(const BackwardScalars& scalars, const Block& block,
                                                const BackwardInputs<T>& inputs, T* dq) {
  constexpr int D = Shape::D, M = Shape::M;
  extern __shared__ __align__(128) unsigned char shared[];
  const AttentionScalars& forward = scalars.forward;
  const Sequence sequence = sequence_of(forward, inputs.limits, block.batch);
  const int head_dim = forward.head_dim;
  if (block.tile == 0) {
    write_gaps(dq, scalars.dq, sequence, sequence.queries, block.head, head_dim);
  }
  const int first = block.tile * Shape::kQueries;
  const int present = sequence.queries.count - first;
  if (present <= 0) return;
  const unsigned own = shared_address(shared);
  const auto copy_own = [&](unsigned to, const T* from, const Strides& strides) {
    from += start_of(strides, sequence.batch, sequence.queries, block.head);
    SwizzledTile<D>{to}.copy_rows(from + first * strides.token, strides.token, Shape::kQueries,
                                  present, head_dim / 8, threadIdx.x, Shape::kThreads);
  };
  copy_own(own, inputs.q, forward.q);
  copy_own(own + Shape::kOwnBytes, inputs.dout, scalars.dout);
  const int warp_row = threadIdx.x / 32 * 16 * M;
  const int rows = min(present - warp_row, 16 * M);
  float of_dq[M][D / 8][4] = {};
  add_all_keys<Shape>(of_dq, scalars, inputs, sequence, block.head, own, first, present, warp_row,
                      rows);
  // Where there was no tile, the copies of the queries still write what the sums are about to use.
  wait_for_copies<0>();
  __syncthreads();
  dq += start_of(scalars.dq, sequence.batch, sequence.queries, block.head) +
        (first + warp_row) * scalars.dq.token;
  write_rows<T>(of_dq, SwizzledTile<D>{own + warp_row * D * 2}, dq, scalars.dq.token, rows, rows,
                head_dim);
}

#define QUERY_GRADIENTS(SYMBOL, T, SHAPE)                                                        \
  extern "C" __global__ void __launch_bounds__(SHAPE::kThreads, 1)                               \
  SYMBOL(BACKWARD_PARAMETERS(T), T* dq) {                                                        \
    query_gradients<SHAPE>(scalars, this_block(blocks), BACKWARD_INPUTS(T), dq);                 \
  }

QUERY_GRADIENTS(attention_backward_queries_d64_f16, __half, QueryBlock64)
QUERY_GRADIENTS(attention_backward_queries_d64_bf16, __nv_bfloat16, QueryBlock64)
QUERY_GRADIENTS(attention_backward_queries_d128_f16, __half, QueryBlock128)
QUERY_GRADIENTS(attention_backward_queries_d128_bf16, __nv_bfloat16, QueryBlock128)
QUERY_GRADIENTS(attention_backward_queries_d256_f16, __half, QueryBlock256)
QUERY_GRADIENTS(attention_backward_queries_d256_bf16, __nv_bfloat16, QueryBlock256)
