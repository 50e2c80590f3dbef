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

// Starts the copies of one round's queries, output gradients and statistics, by `threads` threads.
template <typename Shape, typename T>
__device__ __forceinline__ void fetch_queries(const BackwardScalars& scalars,
                                              const BackwardInputs<T>& inputs, const Sequence& sequence,
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

// A block's keys: of a head, from `first` on, at `own` in shared memory, and its two stages.
template <typename T>
struct OwnKeys {
  const BackwardScalars& scalars;
  const BackwardInputs<T>& inputs;
  const Sequence& sequence;
  int kv_head;
  int first;
  unsigned own;
  unsigned stages;
};

// Starts the copies of the keys and the values, by `threads` threads; those that nobody may see are
// zeros.
template <int D, typename T>
__device__ __forceinline__ void fetch_keys(const OwnKeys<T>& block, int keys, int threads) {
  const AttentionScalars& forward = block.scalars.forward;
  const auto copy = [&](unsigned to, const T* from, const Strides& strides) {
    from += start_of(strides, block.sequence.batch, block.sequence.keys, block.kv_head);
    SwizzledTile<D>{to}.copy_rows(from + block.first * strides.token, strides.token, keys,
                                  block.sequence.visible - block.first, forward.head_dim / 8,
                                  threadIdx.x, threads);
  };
  copy(block.own, block.inputs.k, forward.k);
  copy(block.own + keys * D * 2, block.inputs.v, forward.v);
}

// Adds all queries that see some of the block's keys to the warp's sums, head after head. The warp
// owns `live` keys that are seen at all, from `warp_row` of the block's on.
template <typename Shape, bool DK, bool DV, typename T>
__device__ __forceinline__ void add_heads(float (&dk)[Shape::M][Shape::D / 8][4],
                                          float (&dv)[Shape::M][Shape::D / 8][4],
                                          const OwnKeys<T>& block, int warp_row, int live) {
  const AttentionScalars& forward = block.scalars.forward;
  const Range seeing =
      seeing_any(forward, block.sequence, block.first, block.first + Shape::kKeys - 1);
  const int first_tile = seeing.begin / Shape::COLUMNS;
  const bool seen = seeing.end > seeing.begin;
  const int tiles = seen ? (seeing.end - 1) / Shape::COLUMNS + 1 - first_tile : 0;
  const int group = forward.heads / forward.kv_heads;
  const int first_key = block.first + warp_row;
  int head = block.kv_head * group, tile = first_tile;
  const auto fetch = [&](int round) {
    fetch_queries<Shape>(block.scalars, block.inputs, block.sequence,
                         block.stages + round % 2 * Shape::kStageBytes, head, tile,
                         Shape::kThreads);
  };
  if (tiles > 0) fetch(0);
  commit_copies();
  for (int round = 0; round < tiles * group; ++round) {
    const int this_head = head, first_query = tile * Shape::COLUMNS;
    if (++tile == first_tile + tiles) {
      tile = first_tile;
      ++head;
    }
    wait_for_copies<0>();
    // This round's copies are there for all, and all are done with the other stage.
    __syncthreads();
    if (round + 1 < tiles * group) fetch(round + 1);
    commit_copies();
    if (live <= 0) continue;
    add_queries<Shape, DK, DV>(
        dk, dv, Head<T>(forward, block.sequence, block.inputs.bias, this_head),
        block.own + warp_row * Shape::D * 2, block.stages + round % 2 * Shape::kStageBytes,
        first_key, first_key + min(live, 16 * Shape::M) - 1, first_query);
  }
}

// Writes the warp's sums over the keys or the values that it owned at `own`, which end with it.
template <int D, typename T, int M>
__device__ __forceinline__ void write_keys(const float (&sums)[M][D / 8][4],
                                           const OwnKeys<T>& block, unsigned own, int warp_row,
                                           T* to, const Strides& strides) {
  const Sequence& sequence = block.sequence;
  const int row = block.first + warp_row;
  to += start_of(strides, sequence.batch, sequence.keys, block.kv_head) + row * strides.token;
  write_rows<T>(sums, SwizzledTile<D>{own + warp_row * D * 2}, to, strides.token,
                sequence.keys.count - row, sequence.visible - row,
                block.scalars.forward.head_dim);
}

// The whole of a block: gradients of keys [kKeys * tile, kKeys * (tile + 1)) of a head.
template <typename Shape, bool DK, bool DV, typename T>
__device__ __forceinline__ void key_gradients(const BackwardScalars& scalars, const Block& place,
                                              const BackwardInputs<T>& inputs, T* dk, T* dv) {
  constexpr int D = Shape::D, M = Shape::M;
  extern __shared__ __align__(128) unsigned char shared[];
  const Sequence sequence = sequence_of(scalars.forward, inputs.limits, place.batch);
  const int head_dim = scalars.forward.head_dim;
  if (place.tile == 0) {
    if (DK) write_gaps(dk, scalars.dk, sequence, sequence.keys, place.head, head_dim);
    if (DV) write_gaps(dv, scalars.dv, sequence, sequence.keys, place.head, head_dim);
  }
  const int first = place.tile * Shape::kKeys;
  if (first >= sequence.keys.count) return;
  const unsigned own = shared_address(shared);
  const OwnKeys<T> block{scalars, inputs, sequence, place.head,
                         first,   own,    own + 2 * Shape::kOwnBytes};
  fetch_keys<D>(block, Shape::kKeys, Shape::kThreads);
  const int warp_row = threadIdx.x / 32 * 16 * M;
  float of_dk[M][D / 8][4] = {}, of_dv[M][D / 8][4] = {};
  add_heads<Shape, DK, DV>(of_dk, of_dv, block, warp_row, sequence.visible - first - warp_row);
  // Where there was no round, the copies of the keys still write what the sums are about to use.
  wait_for_copies<0>();
  __syncthreads();
  if (DK) write_keys<D>(of_dk, block, own, warp_row, dk, scalars.dk);
  if (DV) write_keys<D>(of_dv, block, own + Shape::kOwnBytes, warp_row, dv, scalars.dv);
}
