// What a warpgroup of 64 rows does with the columns that stream past it, for sm_90a.
#pragma once

#include "attention/backward_sm90.cuh"

// Named barriers: of all warpgroups with rows, and from there on one for each.
constexpr int kCleanedBarrier = 1;
constexpr int kGroupBarrier = 2;

// Zeros rows [first, end) of a tensor. The consumers share the work.
template <int D, int BLOCK_ROWS>
__device__ __forceinline__ void zero_rows(BlockedTile<BLOCK_ROWS> tile, int first, int end) {
  constexpr int kBlockChunks = BlockedTile<BLOCK_ROWS>::kBlockChunks;
  const int chunk = threadIdx.x % kBlockChunks;
  for (int block = 0; block < D / kBoxColumns; ++block) {
    for (int row = threadIdx.x / kBlockChunks; row < end; row += kConsumers / kBlockChunks) {
      if (row >= first) store_shared(tile.block(block).chunk(row, chunk), make_uint4(0, 0, 0, 0));
    }
  }
}

// How much of some columns the rows of a warpgroup see.
enum class Sight { kNone, kPart, kAll };

// The statistics of queries that are rows; those of columns lie in shared memory.
template <bool KEY_ROWS>
struct OwnStatistics {
  RowStatistic<1> log_sum_exps;
  RowStatistic<1> deltas;
};
template <>
struct OwnStatistics<true> {};

// Of a pair for two queries, that of element e of 8 columns.
template <bool KEY_ROWS>
__device__ __forceinline__ float pick(float2 pair, int e) {
  return (KEY_ROWS ? e % 2 : e / 2) == 0 ? pair.x : pair.y;
}

// From products to probabilities, where nothing but the scale is between: 2^(unit score - log_sum_exp).
// of(i) gives the log-sum-exps, in base 2, for columns 8 i to 8 i + 7.
template <bool KEY_ROWS, int N, typename Of>
__device__ __forceinline__ void exponentiate(float (&scores)[1][N][4], float unit, const Of& of) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float2 log_sum_exps = of(i);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float log_sum_exp = pick<KEY_ROWS>(log_sum_exps, e);
      scores[0][i][e] = exp2_approximate(fmaf(scores[0][i][e], unit, -log_sum_exp));
    }
  }
}

// slopes = probabilities scale (slopes - delta), likewise.
template <bool KEY_ROWS, int N, typename Of>
__device__ __forceinline__ void weigh(float (&slopes)[1][N][4], const float (&probabilities)[1][N][4],
                                      float scale, const Of& of) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float2 deltas = of(i);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float slope = slopes[0][i][e] - pick<KEY_ROWS>(deltas, e);
      slopes[0][i][e] = probabilities[0][i][e] * (scale * slope);
    }
  }
}

// One warpgroup, and its sums: dk and dv, or dq, for which FAR is 1.
template <typename Shape, typename T>
struct Consumer {
  static constexpr bool KEY_ROWS = Shape::KEY_ROWS;
  static constexpr int D = Shape::D, COLUMNS = Shape::COLUMNS, STEP = Shape::STEP;
  static constexpr int FAR = KEY_ROWS ? D / 8 : 1;
  using Columns = BlockedTile<COLUMNS>;

  const BackwardScalars& scalars;
  const BackwardInputs<T>& inputs;
  Shared90<Shape> shared;
  const Job& job;
  int group;
  OwnStatistics<KEY_ROWS> own;
  float (&near_sums)[1][D / 8][4];
  float (&far_sums)[1][FAR][4];

  // First and last row of this warpgroup that may be seen, or see; there may be none.
  __device__ __forceinline__ int first() const { return job.first + group * kGroupRows; }
  __device__ __forceinline__ int last() const {
    return min(first() + kGroupRows, job.live) - 1;
  }
  // First row of this warp.
  __device__ __forceinline__ int warp_row() const {
    return first() + static_cast<int>(threadIdx.x) % kWarpgroup / 32 * 16;
  }

  // Of `count` columns from `column` on.
  __device__ __forceinline__ Sight sight_of(int column, int count) const {
    const int end = column + count - 1;
    const int first_query = KEY_ROWS ? column : first();
    const int last_query = KEY_ROWS ? min(end, job.columns - 1) : last();
    const int first_key = KEY_ROWS ? first() : column;
    const int last_key = KEY_ROWS ? last() : end;
    const Sequence& sequence = job.sequence;
    const Range any = seen_by_any(scalars.forward, sequence, first_query, last_query);
    if (last_query < first_query || last_key < first_key) return Sight::kNone;
    if (first_key >= any.end || last_key < any.begin) return Sight::kNone;
    const Range all = seen_by_all(scalars.forward, sequence, first_query, last_query);
    return first_key >= all.begin && last_key < all.end ? Sight::kAll : Sight::kPart;
  }

  // Nothing but the scale is between a product and its exponential.
  __device__ __forceinline__ bool is_plain() const {
    const AttentionScalars& forward = scalars.forward;
    return inputs.bias == nullptr && forward.softcap == 0.0f && forward.dropout_threshold == 0;
  }

  // Log-sum-exp and delta of 8 columns, number `eight` of tile `n`.
  __device__ __forceinline__ float2 log_sum_exps_of(int n, int eight) const {
    if constexpr (KEY_ROWS) {
      return shared.log_sum_exps_of(n, eight);
    } else {
      return {own.log_sum_exps.of[0][0], own.log_sum_exps.of[0][1]};
    }
  }
  __device__ __forceinline__ float2 deltas_of(int n, int eight) const {
    if constexpr (KEY_ROWS) {
      return shared.deltas_of(n, eight);
    } else {
      return {own.deltas.of[0][0], own.deltas.of[0][1]};
    }
  }

  // A tile, number `n`, that the rows see whole, by steps that overlap: the slopes' product runs beside
  // the exponentials, and that of the probabilities beside the slopes.
  __device__ __forceinline__ void take_plain(int n) {
    constexpr int N = COLUMNS / 8;
    const float scale = scalars.forward.scale, unit = scale * kLog2E;
    float scores[1][N][4], slopes[1][N][4];
    unsigned rounded[1][N / 2][4], rounded_slopes[1][N / 2][4];
    start_scores<T, D>(scores, shared.near_rows(group), shared.near_columns(n));
    start_scores<T, D>(slopes, shared.far_rows(group), shared.far_columns(n));
    wait_for_products<1>();
    pin(scores[0]);
    exponentiate<KEY_ROWS>(scores, unit, [&](int i) { return log_sum_exps_of(n, i); });
    if constexpr (KEY_ROWS) {
      round_scores<T>(rounded, scores);
      start_sums<T>(far_sums, rounded, shared.far_columns(n));
      wait_for_products<1>();
    } else {
      // The exponentials are not to wait for the slopes, but ptxas would move the wait up among them. A
      // branch stops it: the tile is there, so this one is passed at once.
      pin(scores[0]);
      shared.ring().wait(n);
      wait_for_products<0>();
    }
    pin(slopes[0]);
    weigh<KEY_ROWS>(slopes, scores, scale, [&](int i) { return deltas_of(n, i); });
    round_scores<T>(rounded_slopes, slopes);
    start_sums<T>(near_sums, rounded_slopes, shared.near_columns(n));
    wait_for_products<0>();
    pin(near_sums[0]);
    pin(rounded_slopes[0]);
    if constexpr (KEY_ROWS) {
      pin(far_sums[0]);
      pin(rounded[0]);
    }
  }

  // Whether STEP rows of a tile hold a NaN or an infinity. The warpgroup takes part and learns it.
  __device__ __forceinline__ bool any_non_finite_in(Columns columns) const {
    constexpr int kBlockChunks = Columns::kBlockChunks;
    unsigned any = 0;
    for (int i = threadIdx.x % kWarpgroup; i < STEP * Shape::kColumnBlocks * kBlockChunks;
         i += kWarpgroup) {
      const int row = i / kBlockChunks % STEP, chunk = i % kBlockChunks;
      const uint4 words = load_shared(columns.block(i / kBlockChunks / STEP).chunk(row, chunk));
      any |= non_finite<T>(words.x) | non_finite<T>(words.y) | non_finite<T>(words.z) |
             non_finite<T>(words.w);
    }
    return meet_or(kGroupBarrier + group, kWarpgroup, any != 0);
  }

  // As `add_weighted` of backward_step.cuh.
  template <int N>
  __device__ __forceinline__ void add(float (&sums)[1][D / 8][4],
                                      const float (&weights)[1][N][4], Columns columns,
                                      const Head<T>& head, const Place<KEY_ROWS>& place,
                                      bool masked) {
    unsigned rounded[1][N / 2][4];
    round_scores<T>(rounded, weights);
    if (masked && any_non_finite_in(columns)) {
      accumulate_isolated(sums, rounded, columns, (scalars.forward.head_dim + 15) / 16, head,
                          place);
      return;
    }
    start_sums<T>(sums, rounded, columns);
    wait_for_products<0>();
    pin(sums[0]);
    pin(rounded[0]);
  }

  // STEP columns from `column` of tile `n` on, which starts at `start`, with every mask, bias, cap and
  // dropout.
  __device__ __forceinline__ void take_step(int n, int start, int column, int query_head) {
    constexpr int N = STEP / 8;
    const Sight sight = sight_of(start + column, STEP);
    if (sight == Sight::kNone) return;
    const bool masked = sight == Sight::kPart;
    const Head<T> head(scalars.forward, job.sequence, inputs.bias, query_head);
    const Place<KEY_ROWS> place{warp_row(), start + column};
    const Columns near = shared.near_columns(n).from_row(column);
    const Columns far = shared.far_columns(n).from_row(column);
    float scores[1][N][4], slopes[1][N][4];
    start_scores<T, D>(scores, shared.near_rows(group), near);
    start_scores<T, D>(slopes, shared.far_rows(group), far);
    wait_for_products<0>();
    pin(scores[0]);
    pin(slopes[0]);
    const float scale = scalars.forward.scale;
    if constexpr (KEY_ROWS) {
      differentiate<true, true>(scores, slopes, head, place, scale, masked,
                                ColumnStatistic<N>(shared.log_sum_exps(n) + 4 * column),
                                ColumnStatistic<N>(shared.deltas(n) + 4 * column));
      add(far_sums, scores, far, head, place, masked);
    } else {
      differentiate<false, true>(scores, slopes, head, place, scale, masked, own.log_sum_exps,
                                 own.deltas);
    }
    add(near_sums, slopes, near, head, place, masked);
  }

  // Zeros the columns of a tile behind the last that may be seen, where there is something: another
  // sequence's tokens, or keys behind a length. All consumers take part.
  __device__ __forceinline__ void clean(int n, int start) const {
    const AttentionScalars& forward = scalars.forward;
    const int there = inputs.limits.offsets_q != nullptr ? start + COLUMNS
                      : KEY_ROWS                         ? forward.queries
                                                         : forward.keys;
    if (job.columns >= min(start + COLUMNS, there)) return;
    zero_rows<D>(shared.near_columns(n), job.columns - start, COLUMNS);
    zero_rows<D>(shared.far_columns(n), job.columns - start, COLUMNS);
    fence_async_proxy();
    // All of the tile is clean before any warpgroup multiplies with it.
    meet(kCleanedBarrier, kConsumers);
  }

  // All tiles, in order, head after head.
  __device__ __forceinline__ void run() {
    shared.rows_there().wait(0);
    const bool plain = is_plain();
    for (int head = job.head, n = 0; head < job.head + job.heads; ++head) {
      for (int tile = job.tile; tile < job.tile + job.tiles; ++tile, ++n) {
        const int start = tile * COLUMNS;
        shared.ring().wait(n);
        clean(n, start);
        const bool whole = plain && sight_of(start, COLUMNS) == Sight::kAll;
        if (whole) {
          take_plain(n);
        } else {
#pragma unroll 1
          for (int column = 0; column < COLUMNS; column += STEP) take_step(n, start, column, head);
        }
        // Ordinary reads, of statistics or in search of NaN, come before the copies that follow.
        if (KEY_ROWS || !whole) fence_async_proxy();
        shared.ring().release(n);
      }
    }
    // All warps of the group have multiplied with the rows whose place the sums take.
    meet(kGroupBarrier + group, kWarpgroup);
  }

  // Writes sums through the place `from` of the group's rows.
  __device__ __forceinline__ void write(const float (&sums)[1][D / 8][4], BlockedTile<kGroupRows> from,
                                        T* to, const Strides& strides) const {
    const Sequence& sequence = job.sequence;
    const Tokens& tokens = KEY_ROWS ? sequence.keys : sequence.queries;
    const int row = warp_row();
    to += start_of(strides, sequence.batch, tokens, job.row_head) + row * strides.token;
    const SwizzledTile<D> stage = {from.address + (row - first()) * D * 2};
    write_rows<T>(sums, stage, to, strides.token, job.rows - row, job.live - row,
                  scalars.forward.head_dim);
  }
};

// The whole of a block: dk and dv of some keys, or dq (`near`) of some queries.
template <typename Shape, typename T>
__device__ __forceinline__ void gradients(const BackwardScalars& scalars, const Block& block,
                                          const BackwardInputs<T>& inputs, const Maps& maps,
                                          T* near, T* far) {
  constexpr bool KEY_ROWS = Shape::KEY_ROWS;
  constexpr int D = Shape::D;
  extern __shared__ __align__(1024) unsigned char memory[];
  const Shared90<Shape> shared = {shared_address(memory)};
  const Job job = job_of<Shape>(scalars.forward, inputs.limits, block);
  const Strides& near_strides = KEY_ROWS ? scalars.dk : scalars.dq;
  if (block.tile == 0) {
    const Tokens& tokens = KEY_ROWS ? job.sequence.keys : job.sequence.queries;
    const int head_dim = scalars.forward.head_dim;
    write_gaps(near, near_strides, job.sequence, tokens, block.head, head_dim);
    if (KEY_ROWS) write_gaps(far, scalars.dv, job.sequence, tokens, block.head, head_dim);
  }
  if (job.first >= job.rows) return;
  open_barriers(shared);
  if (threadIdx.x >= kConsumers) {
    keep_registers<kProducerRegisters>();
    if (threadIdx.x == kConsumers) produce(scalars, inputs, maps, shared, job);
  } else {
    take_registers<kConsumerRegisters>();
    float near_sums[1][D / 8][4] = {}, far_sums[1][KEY_ROWS ? D / 8 : 1][4] = {};
    const int group = warpgroup_number();
    const auto own = [&] {
      if constexpr (KEY_ROWS) {
        return OwnStatistics<true>{};
      } else {
        const bool packed = inputs.limits.offsets_q != nullptr;
        const long long at = statistics_start(scalars, job.sequence, block.head, packed) + job.first +
                             threadIdx.x / 32 * 16;
        return OwnStatistics<false>{RowStatistic<1>(inputs.log_sum_exps + at),
                                    RowStatistic<1>(inputs.deltas + at)};
      }
    };
    Consumer<Shape, T> consumer = {scalars, inputs, shared,    job,
                                   group,   own(),  near_sums, far_sums};
    consumer.run();
    consumer.write(near_sums, shared.near_rows(group), near, near_strides);
    if constexpr (KEY_ROWS) consumer.write(far_sums, shared.far_rows(group), far, scalars.dv);
  }
}

// Tensor maps before what each kernel of the gradients takes.
#define MAP_PARAMETERS                                                                       \
  const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k,          \
      const __grid_constant__ TensorMap map_v, const __grid_constant__ TensorMap map_dout
#define MAPS \
  Maps { map_q, map_k, map_v, map_dout }
