// The gradients of attention for sm_90a: a block owns some rows of two tensors and has the tiles of
// columns that they see streamed past, so that no sum crosses blocks.
//
// Where KEY_ROWS holds the rows are keys (and values), the columns queries (and output gradients), and
// the sums dk and dv; otherwise the rows are queries, the columns keys, and the sum is dq. `near` is the
// first of the two tensors, whose product are the scores, and `far` the second.
#pragma once

#include "attention/backward_step.cuh"
#include "attention/backward_write.cuh"
#include "attention/products_sm90.cuh"
#include "common/named_barrier.cuh"
#include "common/register_share.cuh"

constexpr int kGroups = 2;  // warpgroups with rows
constexpr int kConsumers = kGroups * kWarpgroup;
// Multiples of 8 that fit the 65536 registers: 24 * 128 + 240 * 256.
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;

// How a block is laid out. A thread's registers hold sums (D / 2 of each), scores and slopes (COLUMNS / 2
// of each) and the rounded scores (COLUMNS / 4), of which the product runs while the slopes are still
// computed; the rounded slopes take the places of these. That is 224 of 240 at most. Where masks, biases,
// caps or dropout need registers, too, a tile is taken in STEPs.
template <bool KEY_ROWS_, int D_, int COLUMNS_, int STEP_, int STAGES_, int UNITS_ = kGroups>
struct Shape90 {
  static constexpr bool KEY_ROWS = KEY_ROWS_;
  static constexpr int D = D_, COLUMNS = COLUMNS_, STEP = STEP_, STAGES = STAGES_;
  static constexpr int UNITS = UNITS_;  // of 64 rows
  static constexpr int kRows = UNITS * kGroupRows;
  static constexpr int kThreads = kConsumers + kWarpgroup;
  static constexpr int kColumnBlocks = D / kBoxColumns;
  static constexpr int kUnitBytes = kGroupRows * D * 2;   // of a tensor's rows
  static constexpr int kTileBytes = COLUMNS * D * 2;      // of a tensor's columns
  static constexpr int kStatisticsBytes = KEY_ROWS ? COLUMNS * 4 : 0;  // of log-sum-exps, of deltas
  static constexpr int kStageBytes = 2 * kTileBytes + 2 * kStatisticsBytes;
  static_assert(kStatisticsGroup % (KEY_ROWS ? COLUMNS : kRows) == 0, "a tile's statistics exist");
};

// A block's dynamic shared memory; mirrored by src/cuda/attention/backward/hopper.rs.
template <typename Shape>
struct Shared90 {
  static constexpr int kStagesAt = 2 * Shape::UNITS * Shape::kUnitBytes;
  static constexpr int kStatisticsAt = kStagesAt + Shape::STAGES * 2 * Shape::kTileBytes;
  static constexpr int kBarriersAt = kStatisticsAt + Shape::STAGES * 2 * Shape::kStatisticsBytes;
  static constexpr int kBytes = kBarriersAt + Ring<Shape::STAGES>::kBytes + 8;
  static_assert(kBytes <= 227 * 1024, "what a block may have");

  unsigned address;

  using Rows = BlockedTile<kGroupRows>;
  using Columns = BlockedTile<Shape::COLUMNS>;

  __device__ __forceinline__ Rows near_rows(int unit) const {
    return {address + unit * Shape::kUnitBytes};
  }
  __device__ __forceinline__ Rows far_rows(int unit) const {
    return near_rows(Shape::UNITS + unit);
  }
  __device__ __forceinline__ Columns near_columns(int n) const {
    return {address + kStagesAt + n % Shape::STAGES * 2 * Shape::kTileBytes};
  }
  __device__ __forceinline__ Columns far_columns(int n) const {
    return {near_columns(n).address + Shape::kTileBytes};
  }
  __device__ __forceinline__ unsigned log_sum_exps(int n) const {
    return address + kStatisticsAt + n % Shape::STAGES * 2 * Shape::kStatisticsBytes;
  }
  __device__ __forceinline__ unsigned deltas(int n) const {
    return log_sum_exps(n) + Shape::kStatisticsBytes;
  }
  // Of the two queries of this lane in columns 8 i to 8 i + 7.
  __device__ __forceinline__ float2 log_sum_exps_of(int n, int i) const {
    return load_shared_floats(log_sum_exps(n) + 4 * (8 * i + fragment_column()));
  }
  __device__ __forceinline__ float2 deltas_of(int n, int i) const {
    return load_shared_floats(deltas(n) + 4 * (8 * i + fragment_column()));
  }
  __device__ __forceinline__ Ring<Shape::STAGES> ring() const { return {address + kBarriersAt}; }
  // Of the block's rows.
  __device__ __forceinline__ Mbarrier rows_there() const {
    return {address + kBarriersAt + Ring<Shape::STAGES>::kBytes};
  }
};

// Makes the barriers. All threads take part.
template <typename Shape>
__device__ __forceinline__ void open_barriers(const Shared90<Shape>& shared) {
  if (threadIdx.x == 0) {
    shared.ring().init(kConsumers / 32);
    shared.rows_there().init(1);
    publish_barriers();
  }
  // The barriers are there.
  __syncthreads();
}

// What a block does: `tiles` tiles of columns from number `tile` on, for each of `heads` query heads
// from `head` on.
struct Job {
  Sequence sequence;
  int row_head;    // of the tensors of the rows
  int first;       // of the block's rows
  int rows;        // of the sequence, seen or not
  int live;        // of the sequence, that may be seen
  int columns;     // of the sequence, that may be seen
  int tile;
  int tiles;
  int head;
  int heads;
};

// All lanes of a warp take part and hold the result.
template <typename Shape>
__device__ __forceinline__ Job job_of(const AttentionScalars& scalars, const Limits& limits,
                                      const Block& block) {
  Job job;
  job.sequence = sequence_of(scalars, limits, block.batch);
  const Sequence& sequence = job.sequence;
  job.row_head = block.head;
  job.first = block.tile * Shape::kRows;
  const int last = job.first + Shape::kRows - 1;
  Range columns;
  if (Shape::KEY_ROWS) {
    job.heads = scalars.heads / scalars.kv_heads;
    job.head = block.head * job.heads;
    job.rows = sequence.keys.count;
    job.live = sequence.visible;
    job.columns = sequence.queries.count;
    columns = seeing_any(scalars, sequence, job.first, last);
  } else {
    job.heads = 1;
    job.head = block.head;
    job.rows = job.live = sequence.queries.count;
    job.columns = sequence.visible;
    columns = seen_by_any(scalars, sequence, job.first, min(last, job.rows - 1));
  }
  job.tile = columns.begin / Shape::COLUMNS;
  job.tiles = columns.end > columns.begin ? (columns.end - 1) / Shape::COLUMNS + 1 - job.tile : 0;
  return job;
}

// Tensor maps, of boxes of 64 rows and of a tile's columns.
struct Maps {
  const TensorMap& q;
  const TensorMap& k;
  const TensorMap& v;
  const TensorMap& dout;
};

// Starts the copies of the block's rows, and of the columns as stages become free. One thread.
template <typename Shape, typename T>
__device__ __forceinline__ void produce(const BackwardScalars& scalars,
                                        const BackwardInputs<T>& inputs, const Maps& maps,
                                        const Shared90<Shape>& shared, const Job& job) {
  constexpr bool KEY_ROWS = Shape::KEY_ROWS;
  const bool packed = inputs.limits.offsets_q != nullptr;
  const Sequence& sequence = job.sequence;
  const int batch = packed ? 0 : sequence.batch;
  const int first_row = (KEY_ROWS ? sequence.keys : sequence.queries).first + job.first;
  shared.rows_there().arrive_expecting(2 * Shape::UNITS * Shape::kUnitBytes);
  for (int unit = 0; unit < Shape::UNITS; ++unit) {
    const Corner from = {0, first_row + unit * kGroupRows, job.row_head, batch};
    const auto copy = [&](BlockedTile<kGroupRows> to, const TensorMap& map) {
      copy_boxes(to.address, to.kBlockBytes, Shape::kColumnBlocks, map, from, shared.rows_there());
    };
    copy(shared.near_rows(unit), KEY_ROWS ? maps.k : maps.q);
    copy(shared.far_rows(unit), KEY_ROWS ? maps.v : maps.dout);
  }
  const int first_column = (KEY_ROWS ? sequence.queries : sequence.keys).first;
  for (int head = job.head, n = 0; head < job.head + job.heads; ++head) {
    const int column_head = KEY_ROWS ? head : divide(head, scalars.forward.by_group);
    const long long statistics = statistics_start(scalars, sequence, head, packed);
    for (int tile = job.tile; tile < job.tile + job.tiles; ++tile, ++n) {
      const int column = tile * Shape::COLUMNS;
      const Corner from = {0, first_column + column, column_head, batch};
      const Mbarrier full = shared.ring().full(n);
      shared.ring().acquire(n, Shape::kStageBytes);
      const auto copy = [&](BlockedTile<Shape::COLUMNS> to, const TensorMap& map) {
        copy_boxes(to.address, to.kBlockBytes, Shape::kColumnBlocks, map, from, full);
      };
      copy(shared.near_columns(n), KEY_ROWS ? maps.q : maps.k);
      copy(shared.far_columns(n), KEY_ROWS ? maps.dout : maps.v);
      if (KEY_ROWS) {
        const long long at = statistics + column;
        copy_bytes(shared.log_sum_exps(n), inputs.log_sum_exps + at, Shape::kStatisticsBytes, full);
        copy_bytes(shared.deltas(n), inputs.deltas + at, Shape::kStatisticsBytes, full);
      }
    }
  }
}
