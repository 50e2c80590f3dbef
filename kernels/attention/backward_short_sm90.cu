// Gradients of attention's queries, keys and values on Hopper where a block holds all keys of a head, and
// every query sees all keys of its sequence.
//
// Reads:   tensor maps of q, k, v and dout (src/cuda/tensor_map.rs), of boxes of 64 keys and of 128
//          queries; what backward_short_sm80.cu reads
// Writes:  dq [B, Nq, H, D], dk, dv [B, Nk, Hkv, D] T, strided
// Launch:  <<<B * Hkv, Short::kThreads, kShortBytes>>>
// Order:   a block adds queries in order, head after head, and each query's keys in order
// Cost:    5 products of 2 Nq Nk D operations a query head, Nq rounded up to 64 and Nk to 64; each tensor
//          read or written once
// Source:  as backward_short_sm80.cu and backward_keys_sm90.cu
// archs: sm_90a

#include "attention/backward_step90.cuh"

// Four units of 64 keys, two a warpgroup, whose sums are 128 registers; the scores and slopes of 64
// queries 64, so these take turns over a tile of 128.
using Short = Shape90<true, 64, 128, 64, 2, 4>;
constexpr int kOwnUnits = Short::UNITS / kGroups;

// The gradients of a tile's scores, by keys: a block of 64 queries for each warpgroup, which makes of them
// and of all keys the gradient of these queries.
using Slopes = BlockedTile<Short::kRows>;
constexpr int kSlopesAt = (Shared90<Short>::kBytes + 1023) / 1024 * 1024;
constexpr int kShortBytes = kSlopesAt + kGroups * Slopes::kBlockBytes;
static_assert(kShortBytes == 199680, "mirrored by the host");

// Named barriers after those of backward_step90.cuh.
constexpr int kStoredBarrier = 4;
constexpr int kUsedBarrier = 5;

template <typename T>
struct ShortConsumer {
  static constexpr int D = Short::D, N = kGroupRows / 8;

  const BackwardScalars& scalars;
  Shared90<Short> shared;
  const Job& job;
  bool packed;
  int group;
  float (&dk)[kOwnUnits][1][D / 8][4];
  float (&dv)[kOwnUnits][1][D / 8][4];

  __device__ __forceinline__ Slopes slopes_tile() const { return {shared.address + kSlopesAt}; }
  // Number i of this warpgroup: units go round, so that both have as many.
  __device__ __forceinline__ int unit(int i) const { return group + i * kGroups; }
  static __device__ __forceinline__ int warp_row() {
    return static_cast<int>(threadIdx.x) % kWarpgroup / 32 * 16;
  }

  // Zeros the rows of keys from `live` of the unit's on, whose exp(0 - lse) may be infinite.
  static __device__ __forceinline__ void hide(float (&values)[1][N][4], int live) {
    if (live >= kGroupRows) return;
    for_each_element<1, N>([&](int m, int n, int e) {
      const bool exists = warp_row() + fragment_row() + e / 2 * 8 < live;
      values[m][n][e] = exists ? values[m][n][e] : 0.0f;
    });
  }

  // 64 queries, number `half` of tile `n`, and unit number i: adds to its sums, and stores the slopes.
  template <int I>
  __device__ __forceinline__ void add(int n, int half) {
    const int live = job.live - unit(I) * kGroupRows;
    if (live <= 0) return;
    const float scale = scalars.forward.scale;
    const auto q = shared.near_columns(n).from_row(half * kGroupRows);
    const auto dout = shared.far_columns(n).from_row(half * kGroupRows);
    float scores[1][N][4], slopes[1][N][4];
    unsigned rounded[1][N / 2][4], rounded_slopes[1][N / 2][4];
    start_scores<T, D>(scores, shared.near_rows(unit(I)), q);
    start_scores<T, D>(slopes, shared.far_rows(unit(I)), dout);
    wait_for_products<1>();
    pin(scores[0]);
    exponentiate<true>(scores, scale * kLog2E,
                       [&](int i) { return shared.log_sum_exps_of(n, half * N + i); });
    hide(scores, live);
    round_scores<T>(rounded, scores);
    start_sums<T>(dv[I], rounded, dout);
    wait_for_products<1>();
    pin(slopes[0]);
    weigh<true>(slopes, scores, scale, [&](int i) { return shared.deltas_of(n, half * N + i); });
    hide(slopes, live);
    round_scores<T>(rounded_slopes, slopes);
    // Before the product that has them as an operand, and beside the one under way.
    const SwizzledTile<kBoxColumns> to = slopes_tile().block(half);
    const int row = unit(I) * kGroupRows + warp_row() + fragment_row();
#pragma unroll
    for (int i = 0; i < 2 * N; ++i) {
      const unsigned at = to.chunk(row + i % 2 * 8, i / 2);
      store_shared(at + 2 * fragment_column(), rounded_slopes[0][i / 4][i % 4]);
    }
    start_sums<T>(dk[I], rounded_slopes, q);
    wait_for_products<0>();
    pin(dv[I][0]);
    pin(dk[I][0]);
    pin(rounded[0]);
    pin(rounded_slopes[0]);
  }

  // The gradient of this warpgroup's queries of tile `n`, from `first` on, through their place.
  __device__ __forceinline__ void write_queries(int n, int first, int head, T* dq) const {
    const Sequence& sequence = job.sequence;
    float sums[1][D / 8][4] = {};
    const Operand slopes = down_rows(slopes_tile().block(group).address, Slopes::kBlockBytes);
    const Operand keys = down_rows(shared.near_rows(0).address, Short::kUnitBytes);
#pragma unroll 1
    for (int key = 0; key < job.live; key += kGroupRows) {
      pin(sums[0]);
      begin_products();
#pragma unroll
      for (int step = 0; step < kGroupRows / 16; ++step) {
        const int bytes = (key + step * 16) * kBoxRowBytes;
        multiply_turned_async(sums[0], slopes.advance(bytes), keys.advance(bytes), T());
      }
      commit_products();
      wait_for_products<0>();
      pin(sums[0]);
    }
    const int row = first + warp_row();
    const long long stride = scalars.dq.token;
    const auto place = shared.near_columns(n).from_row(group * kGroupRows + warp_row());
    dq += start_of(scalars.dq, sequence.batch, sequence.queries, head) + row * stride;
    write_rows<T>(sums, SwizzledTile<D>{place.address}, dq, stride, job.columns - row,
                  job.columns - row, scalars.forward.head_dim);
  }

  // Zeros keys that nobody may see, since they are multiplied with gradients of 0.
  __device__ __forceinline__ void clean_keys() const {
    const int there = packed ? Short::kRows : scalars.forward.keys;
    if (job.live >= there) return;
    for (int i = 0; i < Short::UNITS; ++i) {
      zero_rows<D>(shared.near_rows(i), job.live - i * kGroupRows, kGroupRows);
    }
    fence_async_proxy();
    // All keys are clean before any warpgroup multiplies with them.
    meet(kCleanedBarrier, kConsumers);
  }

  // Zeros another sequence's queries.
  __device__ __forceinline__ void clean_queries(int n, int start) const {
    if (!packed || job.columns >= start + Short::COLUMNS) return;
    zero_rows<D>(shared.near_columns(n), job.columns - start, Short::COLUMNS);
    zero_rows<D>(shared.far_columns(n), job.columns - start, Short::COLUMNS);
    fence_async_proxy();
    // All of the tile is clean before any warpgroup multiplies with it.
    meet(kCleanedBarrier, kConsumers);
  }

  __device__ __forceinline__ void run(T* dq) {
    shared.rows_there().wait(0);
    clean_keys();
    for (int head = job.head, n = 0; head < job.head + job.heads; ++head) {
      for (int tile = 0; tile < job.tiles; ++tile, ++n) {
        const int start = tile * Short::COLUMNS;
        shared.ring().wait(n);
        clean_queries(n, start);
#pragma unroll 1
        for (int half = 0; half < 2 && start + half * kGroupRows < job.columns; ++half) {
          add<0>(n, half);
          add<1>(n, half);
        }
        fence_async_proxy();
        // All gradients of scores are there, and nobody multiplies with the queries any more.
        meet(kStoredBarrier, kConsumers);
        const int first = start + group * kGroupRows;
        if (first < job.columns) write_queries(n, first, head, dq);
        // Ordinary accesses come before the copies that follow.
        fence_async_proxy();
        shared.ring().release(n);
        // The gradients of scores have been used: the next tile's take their place.
        meet(kUsedBarrier, kConsumers);
      }
    }
  }

  // Writes the sums of a unit through the place of its rows.
  __device__ __forceinline__ void write_unit(const float (&sums)[1][D / 8][4],
                                             BlockedTile<kGroupRows> from, int first, T* to,
                                             const Strides& strides) const {
    const Sequence& sequence = job.sequence;
    const int row = first + warp_row();
    to += start_of(strides, sequence.batch, sequence.keys, job.row_head) + row * strides.token;
    write_rows<T>(sums, SwizzledTile<D>{from.from_row(warp_row()).address}, to, strides.token,
                  job.rows - row, job.live - row, scalars.forward.head_dim);
  }
};

template <typename T>
__device__ __forceinline__ void short_gradients(const BackwardScalars& scalars, const Block& block,
                                                const BackwardInputs<T>& inputs, const Maps& maps,
                                                T* dq, T* dk, T* dv) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const Shared90<Short> shared = {shared_address(memory)};
  const bool packed = inputs.limits.offsets_q != nullptr;
  Job job = job_of<Short>(scalars.forward, inputs.limits, block);
  // Where no key is seen the queries' gradients are zeros, and are written.
  job.tile = 0;
  job.tiles = (job.columns + Short::COLUMNS - 1) / Short::COLUMNS;
  const Sequence& sequence = job.sequence;
  const int head_dim = scalars.forward.head_dim;
  write_gaps(dk, scalars.dk, sequence, sequence.keys, block.head, head_dim);
  write_gaps(dv, scalars.dv, sequence, sequence.keys, block.head, head_dim);
  for (int i = 0; i < job.heads; ++i) {
    write_gaps(dq, scalars.dq, sequence, sequence.queries, job.head + i, head_dim);
  }
  open_barriers(shared);
  if (threadIdx.x >= kConsumers) {
    keep_registers<kProducerRegisters>();
    if (threadIdx.x == kConsumers) produce(scalars, inputs, maps, shared, job);
    return;
  }
  take_registers<kConsumerRegisters>();
  float of_dk[kOwnUnits][1][Short::D / 8][4] = {}, of_dv[kOwnUnits][1][Short::D / 8][4] = {};
  ShortConsumer<T> consumer = {scalars, shared, job, packed, warpgroup_number(), of_dk, of_dv};
  consumer.run(dq);
  // Without a tile there was no barrier since others may have zeroed keys.
  meet(kUsedBarrier, kConsumers);
#pragma unroll
  for (int i = 0; i < kOwnUnits; ++i) {
    const int unit = consumer.unit(i);
    consumer.write_unit(of_dk[i], shared.near_rows(unit), unit * kGroupRows, dk, scalars.dk);
    consumer.write_unit(of_dv[i], shared.far_rows(unit), unit * kGroupRows, dv, scalars.dv);
  }
}

#define SHORT_GRADIENTS(SYMBOL, T)                                                              \
  extern "C" __global__ void __launch_bounds__(Short::kThreads, 1)                              \
  SYMBOL(MAP_PARAMETERS, BACKWARD_PARAMETERS(T), T* dq, T* dk, T* dv) {                         \
    short_gradients<T>(scalars, this_block(blocks), BACKWARD_INPUTS(T), MAPS, dq, dk, dv);      \
  }

SHORT_GRADIENTS(attention_backward_short_sm90_f16, __half)
SHORT_GRADIENTS(attention_backward_short_sm90_bf16, __nv_bfloat16)
