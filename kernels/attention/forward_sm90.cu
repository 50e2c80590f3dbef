// Attention, forward, for 16-bit elements on Hopper: out = softmax(scores) v, and the log-sum-exp.
//
// Reads:   tensor maps of q, k and v (src/cuda/tensor_map.rs); v itself, bias [B or 1, H or 1, Nq, Nk],
//          kv_lengths [B], offsets [B + 1], as forward_sm80.cu, each or null
// Writes:  out like q; lse [B, H, Nq], or packed [H, Tq]; every element once
// Launch:  <<<min(tiles, multiprocessors), Shape90::kThreads, Tiles::shared_bytes>>>: blocks stay, and take
//          tiles of `kRows` queries as `Schedule` says; the first tile's block also writes the rows that
//          no sequence has
// Order:   a warpgroup owns its rows and takes the keys in ascending order: nothing depends on the
//          schedule
// Limits:  no dropout at D = 256
// Cost:    per tile of `kRows` queries: q, out and lse once, the keys and values it sees once (from L2 for
//          all but the first tile of a head); 4 Nq Nk D operations, tiles without sight left out; at
//          D = 64 as many cycles of exponentials as of products, at D = 128 half as many
// Source:  Shah et al., "FlashAttention-3", 2024; see src/reference/attention.rs for the definition
// archs: sm_90a

#include "attention/forward_sm90.cuh"

// One warpgroup of a block with one task.
template <typename T, int D>
struct Consumer {
  using Shape = Shape90<D>;
  static constexpr int kKeys = Shape::kKeys;
  static constexpr int kSteps = kKeys / 16;

  const AttentionScalars& scalars;
  const T* values;
  const T* bias;
  Shared90<D> shared;
  Turns<Shape::kGroups> turns;
  const Task& task;
  const Work& work;
  int tile;  // of keys, from the block's first on

  // `count` tiles that all queries see whole, by three steps that overlap: the products of this tile's
  // scores, the exponentials of these, and the product of the last tile's probabilities.
  __device__ __forceinline__ void take_plain(Rows<D, 1>& rows, int count) {
    const auto queries = shared.queries(turns.group);
    const float multiplier = scalars.scale * kLog2E;
    float scores[1][kKeys / 8][4];
    unsigned p[1][kSteps][4];
    shared.key_ring().wait(tile);
    turns.take();
    start_scores<T, D>(scores, queries, shared.keys(tile));
    turns.hand_on();
    wait_for_products<0>();
    pin(scores[0]);
    shared.key_ring().release(tile);
    normalise(scores, rows, multiplier);
    round_scores<T>(p, scores);
    for (int left = count - 1; left > 0; --left, ++tile) {
      shared.key_ring().wait(tile + 1);
      turns.take();
      start_scores<T, D>(scores, queries, shared.keys(tile + 1));
      shared.value_ring().wait(tile);
      start_sums<T>(rows.out, p, shared.values(tile));
      turns.hand_on();
      wait_for_products<1>();
      pin(scores[0]);
      shared.key_ring().release(tile + 1);
      float correction[2];
      const bool changed = exponentiate(scores, rows, multiplier, correction);
      // The exponentials come before the branch, and so before the wait: without the branch ptxas moves
      // the wait up before them.
      pin(scores[0]);
      if (changed) {
        wait_for_products<0>();
        pin(rows.out[0]);
        rescale(rows, correction);
      }
      wait_for_products<0>();
      pin(rows.out[0]);
      pin(p[0]);
      shared.value_ring().release(tile);
      round_scores<T>(p, scores);
    }
    shared.value_ring().wait(tile);
    start_sums<T>(rows.out, p, shared.values(tile));
    wait_for_products<0>();
    pin(rows.out[0]);
    pin(p[0]);
    shared.value_ring().release(tile);
    ++tile;
  }

  // The same tiles where this warpgroup has no queries: the others wait for its turns and releases.
  __device__ __forceinline__ void skip_plain(int count) {
#pragma unroll 1
    for (; count > 0; --count, ++tile) {
      shared.key_ring().wait(tile);
      shared.key_ring().release(tile);
      turns.take();
      turns.hand_on();
      shared.value_ring().wait(tile);
      shared.value_ring().release(tile);
    }
  }

  __device__ __forceinline__ Head<T> head() const {
    const int kv_head = divide(work.block.head, scalars.by_group);
    const T* v = values + start_of(scalars.v, work.block.batch, work.sequence.keys, kv_head);
    return head_at(scalars, work.sequence, work.block.head, v, bias, scalars.head_dim);
  }

  // First and last query of this warpgroup; there may be none.
  __device__ __forceinline__ int first() const {
    return work.first + turns.group * kGroupRows;
  }
  __device__ __forceinline__ int last() const {
    return min(first() + kGroupRows - 1, work.last);
  }

  // Whether the tile from `key` has values that nobody may see: behind the last key lie zeros, or where
  // sequences are packed another one's values.
  __device__ __forceinline__ bool hides_values(const Sequence& sequence, int key) const {
    const int present = scalars.total_keys > 0 ? key + kKeys : scalars.keys;
    return sequence.visible < min(key + kKeys, present);
  }

  // One tile, from `key`, with every mask, bias and cap, and dropout.
  __device__ __forceinline__ void take_general(Rows<D, 1>& rows, int key) {
    const int query = first() + threadIdx.x % kWarpgroup / 32 * 16;
    const Sight mine = sight<kKeys>(scalars, work.sequence, first(), last(), key);
    float scores[1][kKeys / 8][4];
    unsigned p[1][kSteps][4];
    shared.key_ring().wait(tile);
    if (mine.keys > 0) {
      start_scores<T, D>(scores, shared.queries(turns.group), shared.keys(tile));
      wait_for_products<0>();
      pin(scores[0]);
      shape(scores, head(), query, key, mine.whole);
      normalise(scores, rows, 1.0f);
      if (Shape::kDrops && scalars.dropout_threshold != 0) drop(scores, head(), query, key);
      round_scores<T>(p, scores);
    }
    shared.key_ring().release(tile);
    shared.value_ring().wait(tile);
    bool cleaned = false;
    if (hides_values(work.sequence, key) || has_window(scalars)) {
      cleaned = clean_values<T, D>(scalars, work.sequence, shared.values(tile), key);
    }
    if (mine.keys > 0) {
      start_sums<T>(rows.out, p, shared.values(tile));
      wait_for_products<0>();
      pin(rows.out[0]);
      if (cleaned) restore_non_finite<T, D, 1>(rows.out, head(), query, key, key + mine.keys);
    }
    shared.value_ring().release(tile);
    ++tile;
  }

  // All tiles of keys.
  __device__ __forceinline__ void take(Rows<D, 1>& rows) {
    shared.query_ring().wait(task.seeing);
    const Range whole = seen_by_all(scalars, work.sequence, work.first, work.last);
    const int from = (whole.begin + kKeys - 1) / kKeys * kKeys;
    int plain = is_plain(scalars, bias) ? max(whole.end - from, 0) / kKeys : 0;
    for (int key = work.begin; key < work.end;) {
      if (key == from && plain > 0) {
        if (first() <= last()) {
          take_plain(rows, plain);
        } else {
          skip_plain(plain);
        }
        key += plain * kKeys;
        plain = 0;
      } else {
        take_general(rows, key);
        key += kKeys;
      }
    }
  }

  // The task's queries.
  __device__ __forceinline__ void run(T* out, float* lse, bool packed) {
    const Sequence& sequence = work.sequence;
    if (work.begin >= work.end) {
      // No queries were copied: their place, by which outputs may leave, is another task's.
      write_unseen(scalars,
                   out + start_of(scalars.out, work.block.batch, sequence.queries, work.block.head),
                   lse + lse_start(scalars, sequence, work.block.head, packed), work.first,
                   work.last + 1, Shape::kConsumers);
      return;
    }
    Rows<D, 1> rows;
    clear(rows);
    take(rows);
    if (Shape::kOwnStage) shared.query_ring().release(task.seeing);
    // All warps of the group have multiplied with the queries whose place the outputs take.
    if (!Shape::kOwnStage) meet(kStagedBarrier + turns.group, kWarpgroup);
    if (first() <= last()) {
      const int warp = threadIdx.x % kWarpgroup / 32;
      finish(rows, head(),
             out + start_of(scalars.out, work.block.batch, sequence.queries, work.block.head),
             lse + lse_start(scalars, sequence, work.block.head, packed), first() + 16 * warp,
             SwizzledTile<D>{shared.stage(turns.group)}, 16 * warp);
    }
    if (!Shape::kOwnStage) {
      fence_async_proxy();
      shared.query_ring().release(task.seeing);
    }
  }
};

template <typename T, int D>
__device__ __forceinline__ void consume(const AttentionScalars& scalars, bool packed,
                                        const Shared90<D>& shared, const T* v, const T* bias, T* out,
                                        float* lse) {
  using Shape = Shape90<D>;
  const Turns<Shape::kGroups> turns = {warpgroup_number()};
  turns.open();
  for (int number = 0;; ++number) {
    shared.task_ring().wait(number);
    const Task& task = shared.task(number);
    if (task.done) break;
    const Work& work = task.work;
    if (packed && work.block.tile == 0) {
      write_between(scalars, work.sequence, out + work.block.head * scalars.out.head,
                    lse + 1LL * work.block.head * scalars.total_queries, Shape::kConsumers);
    }
    if (work.first <= work.last) {
      Consumer<T, D> consumer = {scalars, v, bias, shared, turns, task, work, task.tile};
      consumer.run(out, lse, packed);
    }
    shared.task_ring().release(number);
  }
  turns.close();
}

template <typename T, int D>
__device__ __forceinline__ void forward(const AttentionScalars& scalars, const Schedule& schedule,
                                        const Limits& limits, const Maps& maps, const T* v,
                                        const T* bias, T* out, float* lse) {
  using Shape = Shape90<D>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const Shared90<D> shared = {memory};
  if (threadIdx.x == 0) {
    shared.query_ring().init(Shape::kConsumers / 32);
    shared.key_ring().init(Shape::kConsumers / 32);
    shared.value_ring().init(Shape::kConsumers / 32);
    shared.task_ring().init(Shape::kConsumers / 32);
    publish_barriers();
    prefetch_map(maps.q);
    prefetch_map(maps.k);
    prefetch_map(maps.v);
  }
  // The barriers are there.
  __syncthreads();
  if (threadIdx.x >= Shape::kConsumers) {
    keep_registers<Shape::kProducerRegisters>();
    if (threadIdx.x < Shape::kConsumers + 32) produce(scalars, schedule, limits, maps, shared);
  } else {
    take_registers<Shape::kConsumerRegisters>();
    consume(scalars, limits.offsets_q != nullptr, shared, v, bias, out, lse);
  }
}

#define FORWARD(SYMBOL, T, D)                                                                     \
  extern "C" __global__ void __launch_bounds__(Shape90<D>::kThreads, 1)                           \
  SYMBOL(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,                \
         const __grid_constant__ TensorMap v, const __grid_constant__ AttentionScalars scalars,   \
         Schedule schedule, const int* kv_lengths, const int* offsets_q, const int* offsets_k,    \
         const T* values, const T* bias, T* out, float* lse) {                                    \
    const Limits limits = {kv_lengths, offsets_q, offsets_k};                                     \
    forward<T, D>(scalars, schedule, limits, {q, k, v}, values, bias, out, lse);                  \
  }

FORWARD(attention_forward_sm90_d64_f16, __half, 64)
FORWARD(attention_forward_sm90_d64_bf16, __nv_bfloat16, 64)
FORWARD(attention_forward_sm90_d128_f16, __half, 128)
FORWARD(attention_forward_sm90_d128_bf16, __nv_bfloat16, 128)
FORWARD(attention_forward_sm90_d256_f16, __half, 256)
FORWARD(attention_forward_sm90_d256_bf16, __nv_bfloat16, 256)
