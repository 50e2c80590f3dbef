// Attention, forward, for 16-bit elements on Hopper: out = softmax(scores) v, and the log-sum-exp.
//
// Reads:   tensor maps of q, k and v (src/cuda/attention/maps.rs); v and bias [B or 1, H or 1, Nq, Nk],
//          kv_lengths [B], offsets [B + 1], as forward_sm80.cu; all but v may be null
// Writes:  out like q; lse [B, H, Nq], or packed [H, Tq]; every element once
// Launch:  <<<min(tiles, multiprocessors), Shape90::kThreads, Tiles::shared_bytes>>>: blocks stay, and take
//          tiles of `kRows` queries as `Schedule` says; the first tile's block also writes the rows that
//          no sequence has
// Order:   a warpgroup owns its rows and takes the keys in ascending order: nothing depends on the
//          schedule
// Cost:    per tile of `kRows` queries: q, out and lse once, the keys and values it sees once (from L2 for
//          all but the first tile of a head); 4 Nq Nk D operations, tiles without sight left out; at
//          D = 64 as many cycles of exponentials as of products, at D = 128 half as many
// Source:  Shah et al., "FlashAttention-3", 2024; see src/reference/attention.rs for the definition
// archs: sm_90a

#include "attention/forward_sm90.cuh"

// One warpgroup of one block, and how far it is.
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
  int tile;    // tiles of keys so far
  int seeing;  // tiles of queries so far that saw keys

  // `count` tiles that all queries see whole, by three steps that overlap: the products of this tile's
  // scores, the exponentials of these, and the product of the last tile's probabilities.
  __device__ __forceinline__ void take_plain(Rows<D, 1>& rows, int count) {
    const unsigned queries = shared.queries(turns.group);
    const float multiplier = scalars.scale * kLog2E;
    float scores[1][kKeys / 8][4];
    unsigned p[kSteps][4];
    shared.key_ring().wait(tile);
    turns.take();
    start_scores<T, D>(scores, queries, shared.keys(tile));
    turns.hand_on();
    wait_for_products<0>();
    pin(scores[0]);
    shared.key_ring().release(tile);
    normalise(scores, rows, multiplier);
    round_to<T>(p, scores);
    for (int left = count - 1; left > 0; --left, ++tile) {
      shared.key_ring().wait(tile + 1);
      turns.take();
      start_scores<T, D>(scores, queries, shared.keys(tile + 1));
      shared.value_ring().wait(tile);
      start_outputs<T>(rows, p, shared.values(tile));
      turns.hand_on();
      wait_for_products<1>();
      pin(scores[0]);
      shared.key_ring().release(tile + 1);
      float correction[2];
      const bool changed = exponentiate(scores, rows, multiplier, correction);
      wait_for_products<0>();
      pin(rows.out[0]);
      pin(p);
      shared.value_ring().release(tile);
      if (changed) rescale(rows, correction);
      round_to<T>(p, scores);
    }
    shared.value_ring().wait(tile);
    start_outputs<T>(rows, p, shared.values(tile));
    wait_for_products<0>();
    pin(rows.out[0]);
    pin(p);
    shared.value_ring().release(tile);
    ++tile;
  }

  // The same tiles where this warpgroup has no queries: the others wait for its turns and releases.
  __device__ __forceinline__ void skip_plain(int count) {
    for (; count > 0; --count, ++tile) {
      shared.key_ring().wait(tile);
      shared.key_ring().release(tile);
      turns.take();
      turns.hand_on();
      shared.value_ring().wait(tile);
      shared.value_ring().release(tile);
    }
  }

  // The head of this work; v and bias start at that of the sequence.
  __device__ __forceinline__ Head<T> head_of(const Work& work) const {
    const int kv_head = divide(work.block.head, scalars.by_group);
    const T* v = values + start_of(scalars.v, work.block.batch, work.sequence.keys, kv_head);
    return head_at(scalars, work.sequence, work.block.head, v, bias, scalars.head_dim);
  }

  // First and last query of this warpgroup; there may be none.
  __device__ __forceinline__ int first_of(const Work& work) const {
    return work.first + turns.group * kGroupRows;
  }
  __device__ __forceinline__ int last_of(const Work& work) const {
    return min(first_of(work) + kGroupRows - 1, work.last);
  }

  // Whether the tile from `key` has values that nobody may see: behind the last key lie zeros, or where
  // sequences are packed another one's values.
  __device__ __forceinline__ bool hides_values(const Sequence& sequence, int key) const {
    const int present = scalars.total_keys > 0 ? key + kKeys : scalars.keys;
    return sequence.visible < min(key + kKeys, present);
  }

  // One tile, from `key`, with every mask, bias, cap and dropout.
  __device__ __forceinline__ void take_general(Rows<D, 1>& rows, const Work& work, int key) {
    const int first = first_of(work);
    const int query = first + threadIdx.x % kWarpgroup / 32 * 16;
    const Sight mine = sight<kKeys>(scalars, work.sequence, first, last_of(work), key);
    float scores[1][kKeys / 8][4];
    unsigned p[kSteps][4];
    shared.key_ring().wait(tile);
    if (mine.keys > 0) {
      start_scores<T, D>(scores, shared.queries(turns.group), shared.keys(tile));
      wait_for_products<0>();
      pin(scores[0]);
      const Head<T> head = head_of(work);
      shape(scores, head, query, key, mine.whole);
      normalise(scores, rows, 1.0f);
      if (scalars.dropout_threshold != 0) drop(scores, head, query, key);
      round_to<T>(p, scores);
    }
    shared.key_ring().release(tile);
    shared.value_ring().wait(tile);
    bool cleaned = false;
    if (hides_values(work.sequence, key) || has_window(scalars)) {
      cleaned = clean_values<T, D>(scalars, work.sequence, shared.values(tile), key);
    }
    if (mine.keys > 0) {
      start_outputs<T>(rows, p, shared.values(tile));
      wait_for_products<0>();
      pin(rows.out[0]);
      if (cleaned) restore_non_finite<T, D, 1>(rows.out, head_of(work), query, key, key + mine.keys);
    }
    shared.value_ring().release(tile);
    ++tile;
  }

  // All tiles of keys.
  __device__ __forceinline__ void take(Rows<D, 1>& rows, const Work& work) {
    shared.query_ring().wait(seeing);
    const Range whole = seen_by_all(scalars, work.sequence, work.first, work.last);
    const int from = (whole.begin + kKeys - 1) / kKeys * kKeys;
    int plain = is_plain(scalars, bias) ? max(whole.end - from, 0) / kKeys : 0;
    for (int key = work.begin; key < work.end;) {
      if (key == from && plain > 0) {
        if (first_of(work) <= last_of(work)) {
          take_plain(rows, plain);
        } else {
          skip_plain(plain);
        }
        key += plain * kKeys;
        plain = 0;
      } else {
        take_general(rows, work, key);
        key += kKeys;
      }
    }
  }

  // One tile of queries.
  __device__ __forceinline__ void finish_work(const Work& work, T* out, float* lse, bool packed) {
    const Block& block = work.block;
    const Sequence& sequence = work.sequence;
    const bool saw = work.begin < work.end;
    Rows<D, 1> rows;
    clear(rows);
    if (saw) take(rows, work);
    if (Shape::kOwnStage && saw) shared.query_ring().release(seeing);
    // All warps of the group have multiplied with the queries whose place the outputs take.
    if (!Shape::kOwnStage) meet(kStagedBarrier + turns.group, kWarpgroup);
    const int first = first_of(work);
    if (first <= last_of(work)) {
      const int warp = threadIdx.x % kWarpgroup / 32;
      finish(rows, head_of(work),
             out + start_of(scalars.out, block.batch, sequence.queries, block.head),
             lse + lse_start(scalars, sequence, block.head, packed), first + 16 * warp,
             SwizzledTile<D>{shared.stage(turns.group)}, 16 * warp);
    }
    if (!Shape::kOwnStage && saw) {
      fence_async_proxy();
      shared.query_ring().release(seeing);
    }
    if (saw) ++seeing;
  }
};

template <typename T, int D>
__device__ __forceinline__ void consume(const AttentionScalars& scalars, bool packed,
                                        const Shared90<D>& shared, const T* v, const T* bias, T* out,
                                        float* lse) {
  using Shape = Shape90<D>;
  const int group = warpgroup_number();
  Consumer<T, D> consumer = {scalars, v, bias, shared, {group}, 0, 0};
  consumer.turns.open();
  for (int number = 0;; ++number) {
    shared.work_ring().wait(number);
    const Work& work = shared.work(number);
    if (work.done) break;
    if (packed && work.block.tile == 0) {
      write_between(scalars, work.sequence, out + work.block.head * scalars.out.head,
                    lse + 1LL * work.block.head * scalars.total_queries, Shape::kConsumers);
    }
    if (work.first <= work.last) consumer.finish_work(work, out, lse, packed);
    shared.work_ring().release(number);
  }
  consumer.turns.close();
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
    shared.work_ring().init(Shape::kConsumers / 32);
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
