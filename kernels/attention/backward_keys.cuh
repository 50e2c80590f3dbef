// Gradients of the keys and the values: a block owns some keys of a head and has the queries of all
// heads that share it streamed past, so that no sum crosses blocks.
#pragma once

#include "attention/backward_step.cuh"
#include "attention/backward_write.cuh"

// How a block is laid out. A warp owns 16 M keys; queries come in tiles of COLUMNS through two
// stages, and STEP of them are in registers at a time.
template <int D_, int M_, int WARPS_, int COLUMNS_, int STEP_>
struct KeyBlock {
  static constexpr int D = D_, M = M_, WARPS = WARPS_, COLUMNS = COLUMNS_, STEP = STEP_;
  static constexpr int kThreads = 32 * WARPS;
  static constexpr int kKeys = 16 * M * WARPS;
  static constexpr int kOwnBytes = kKeys * D * 2;         // keys, then values
  static constexpr int kTileBytes = COLUMNS * D * 2;      // queries, then output gradients
  static constexpr int kStatisticsBytes = COLUMNS * 4;    // log-sum-exps, then deltas
  static constexpr int kStageBytes = 2 * kTileBytes + 2 * kStatisticsBytes;
  static constexpr int kBytes = 2 * kOwnBytes + 2 * kStageBytes;
  static_assert(kStatisticsGroup % COLUMNS == 0, "a tile's statistics exist");
};

// Buffers that are read.
template <typename T>
struct KeyInputs {
  const T* q;
  const T* k;
  const T* v;
  const T* dout;
  const T* bias;
  const float* log_sum_exps;
  const float* deltas;
  Limits limits;
};

// Starts the copies of one round's queries, output gradients and statistics, by `threads` threads.
template <typename Shape, typename T>
__device__ __forceinline__ void fetch_queries(const BackwardScalars& scalars,
                                              const KeyInputs<T>& inputs, const Sequence& sequence,
                                              unsigned stage, int head, int tile,
                                              int threads) {
  const AttentionScalars& forward = scalars.forward;
  const int first = tile * Shape::COLUMNS;
  const int present = sequence.queries.count - first;
  const int chunks = forward.head_dim / 8;
  const T* q = inputs.q + start_of(forward.q, sequence.batch, sequence.queries, head) +
               first * forward.q.token;
  const T* dout = inputs.dout + start_of(scalars.dout, sequence.batch, sequence.queries, head) +
                  first * scalars.dout.token;
  SwizzledTile<Shape::D>{stage}.copy_rows(q, forward.q.token, Shape::COLUMNS, present, chunks,
                                          threadIdx.x, threads);
  SwizzledTile<Shape::D>{stage + Shape::kTileBytes}.copy_rows(
      dout, scalars.dout.token, Shape::COLUMNS, present, chunks, threadIdx.x, threads);
  const bool packed = inputs.limits.offsets_q != nullptr;
  const long long start = statistics_start(scalars, sequence, head, packed) + first;
  constexpr int kCopies = Shape::kStatisticsBytes / 16;
  if (threadIdx.x < 2 * kCopies) {
    const bool second = threadIdx.x >= kCopies;
    const float* from = second ? inputs.deltas : inputs.log_sum_exps;
    copy_async(stage + 2 * Shape::kTileBytes + threadIdx.x * 16,
               from + start + (threadIdx.x - (second ? kCopies : 0)) * 4, true);
  }
}

// Adds one round to the warp's sums. DK, DV: which gradients are made.
template <typename Shape, bool DK, bool DV, typename T>
__device__ __forceinline__ void add_queries(float (&dk)[Shape::M][Shape::D / 8][4],
                                            float (&dv)[Shape::M][Shape::D / 8][4],
                                            const Head<T>& head, unsigned own, unsigned stage,
                                            int first_key, int last_key, int first_query) {
  constexpr int D = Shape::D, M = Shape::M, N = Shape::STEP / 8;
  const int steps = (head.scalars.head_dim + 15) / 16;
  const SwizzledTile<D> keys{own}, values{own + Shape::kOwnBytes};
#pragma unroll 1
  for (int column = 0; column < Shape::COLUMNS; column += Shape::STEP) {
    const Place<true> place{first_key, first_query + column};
    const int last_query = min(place.column + Shape::STEP, head.sequence.queries.count) - 1;
    const Range some = seen_by_any(head.scalars, head.sequence, place.column, last_query);
    if (last_query < place.column || first_key >= some.end || last_key < some.begin) continue;
    const Range all = seen_by_all(head.scalars, head.sequence, place.column, last_query);
    const bool masked = first_key < all.begin || last_key >= all.end;
    const SwizzledTile<D> q{stage + column * D * 2};
    const SwizzledTile<D> dout{q.address + Shape::kTileBytes};
    const unsigned statistics = stage + 2 * Shape::kTileBytes + 4 * column;
    float scores[M][N][4], slopes[M][N][4];
    multiply_rows<T, D>(scores, keys, q, steps);
    if (DK) {
      multiply_rows<T, D>(slopes, values, dout, steps);
    } else {
      for_each_element<M, N>([&](int m, int n, int e) { slopes[m][n][e] = 0.0f; });
    }
    differentiate<true, true>(scores, slopes, head, place, head.scalars.scale, masked,
                                  ColumnStatistic<N>(statistics),
                                  ColumnStatistic<N>(statistics + Shape::kStatisticsBytes));
    if (DV) add_weighted<true>(dv, scores, dout, head, place, masked);
    if (DK) add_weighted<true>(dk, slopes, q, head, place, masked);
  }
}

// The whole of a block: gradients of keys [kKeys * tile, kKeys * (tile + 1)) of a head.
template <typename Shape, bool DK, bool DV, typename T>
__device__ __forceinline__ void key_gradients(const BackwardScalars& scalars, const Block& block,
                                              const KeyInputs<T>& inputs, T* dk, T* dv) {
  constexpr int D = Shape::D, M = Shape::M;
  extern __shared__ __align__(128) unsigned char shared[];
  const AttentionScalars& forward = scalars.forward;
  const Sequence sequence = sequence_of(forward, inputs.limits, block.batch);
  if (block.tile == 0) {
    if (DK) write_gaps(dk, scalars.dk, sequence, sequence.keys, block.head, forward.head_dim);
    if (DV) write_gaps(dv, scalars.dv, sequence, sequence.keys, block.head, forward.head_dim);
  }
  const int first = block.tile * Shape::kKeys;
  if (first >= sequence.keys.count) return;

  const unsigned own = shared_address(shared);
  const unsigned stages = own + 2 * Shape::kOwnBytes;
  const long long k = start_of(forward.k, sequence.batch, sequence.keys, block.head);
  const long long v = start_of(forward.v, sequence.batch, sequence.keys, block.head);
  const int present = sequence.visible - first;
  SwizzledTile<D>{own}.copy_rows(inputs.k + k + first * forward.k.token, forward.k.token,
                                 Shape::kKeys, present, forward.head_dim / 8, threadIdx.x,
                                 Shape::kThreads);
  SwizzledTile<D>{own + Shape::kOwnBytes}.copy_rows(
      inputs.v + v + first * forward.v.token, forward.v.token, Shape::kKeys, present,
      forward.head_dim / 8, threadIdx.x, Shape::kThreads);

  const Range seeing = seeing_any(forward, sequence, first, first + Shape::kKeys - 1);
  const int first_tile = seeing.begin / Shape::COLUMNS;
  const int tiles = seeing.end > seeing.begin
                        ? (seeing.end - 1) / Shape::COLUMNS + 1 - first_tile
                        : 0;
  const int group = forward.heads / forward.kv_heads;
  const int warp = threadIdx.x / 32;
  const int warp_row = 16 * M * warp;
  const unsigned warp_own = own + warp_row * D * 2;
  const int live = present - warp_row;  // keys of the warp that are seen at all
  float of_dk[M][D / 8][4] = {}, of_dv[M][D / 8][4] = {};
  int head = block.head * group, query_tile = first_tile;
  if (tiles > 0) {
    fetch_queries<Shape>(scalars, inputs, sequence, stages, head, query_tile, Shape::kThreads);
  }
  commit_copies();
  for (int round = 0; round < tiles * group; ++round) {
    const unsigned stage = stages + round % 2 * Shape::kStageBytes;
    const int this_head = head, this_tile = query_tile;
    if (++query_tile == first_tile + tiles) {
      query_tile = first_tile;
      ++head;
    }
    wait_for_copies<0>();
    // This round's copies are there for all, and all are done with the other stage.
    __syncthreads();
    if (round + 1 < tiles * group) {
      fetch_queries<Shape>(scalars, inputs, sequence, stages + (round + 1) % 2 * Shape::kStageBytes,
                           head, query_tile, Shape::kThreads);
    }
    commit_copies();
    if (live <= 0) continue;
    const Head<T> of_round(forward, sequence, inputs.bias, this_head);
    add_queries<Shape, DK, DV>(of_dk, of_dv, of_round, warp_own, stage, first + warp_row,
                               first + warp_row + min(live, 16 * M) - 1,
                               this_tile * Shape::COLUMNS);
  }
  // Where there was no round, the copies of the keys still write what the sums are about to use.
  wait_for_copies<0>();
  __syncthreads();
  const int rows = sequence.keys.count - first - warp_row;
  const auto start = [&](const Strides& strides) {
    return start_of(strides, sequence.batch, sequence.keys, block.head) +
           (first + warp_row) * strides.token;
  };
  if (DK) {
    write_rows<T>(of_dk, SwizzledTile<D>{warp_own}, dk + start(scalars.dk), scalars.dk.token, rows,
                  live, forward.head_dim);
  }
  if (DV) {
    write_rows<T>(of_dv, SwizzledTile<D>{warp_own + Shape::kOwnBytes}, dv + start(scalars.dv),
                  scalars.dv.token, rows, live, forward.head_dim);
  }
}
