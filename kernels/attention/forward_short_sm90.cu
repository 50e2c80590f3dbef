// Attention, forward, for 16-bit elements on Hopper and 129 to 272 keys: one tile holds all keys of a head,
// so that a row's largest score is known at once.
//
// Reads:   tensor maps of q, k and v, as forward_sm90.cu, D at most 64; kv_lengths [B] or null
// Writes:  out like q; lse [B, H, Nq]; every element once
// Launch:  <<<min(units, multiprocessors), 384, ShortTiles::shared_bytes>>>: blocks stay, and take
//          units, each one of `splits` equal parts of a head's tiles of 64 queries
// Limits:  dense sequences; no bias, window, cap, dropout or negative scale
// Order:   a warpgroup owns its rows: nothing depends on the schedule
// Cost:    q, k, v, out and lse once, k and v once more for each further split; Nq rounded up to 64 and Nk
//          to KEYS are multiplied, 4 operations an element of both and D: memory's time is longer
// Source:  see src/reference/attention.rs for the definition
// archs: sm_90a

#include "attention/forward_rows.cuh"
#include "attention/products_sm90.cuh"
#include "common/named_barrier.cuh"
#include "common/register_share.cuh"

constexpr int kColumns = 64;
constexpr int kGroups = 2;  // one computes exponentials while the other multiplies
constexpr int kConsumers = kGroups * kWarpgroup;
constexpr int kThreads = kConsumers + kWarpgroup;
// Buffers: the next head and the next queries arrive while these are used.
constexpr int kStages = 2;
constexpr int kTileBytes = kGroupRows * kBoxRowBytes;
constexpr int kCleanedBarrier = 1;
// Scores take KEYS / 2 registers, at most 136 of 232. 40 * 128 + 232 * 256 of 65536.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// Which units there are. Mirrors `Units` in src/cuda/attention/forward/hopper_short.rs.
struct Units {
  int count;   // of all heads
  int splits;  // of a head
  int tiles;   // of queries, of a head
};
static_assert(sizeof(Units) == 12, "mirrored by the host");

// Tiles [first, end) of a head.
struct Unit {
  int batch;
  int head;
  int first;
  int end;
};

__device__ __forceinline__ Unit unit_at(const AttentionScalars& scalars, const Units& units,
                                        int index) {
  const int number = index / units.splits;
  const int part = index - number * units.splits;
  const int batch = number / scalars.heads;
  return {batch, number - batch * scalars.heads, part * units.tiles / units.splits,
          (part + 1) * units.tiles / units.splits};
}

// Dynamic shared memory; mirrored by `ShortTiles` on the host.
template <int KEYS>
struct Shared {
  static constexpr int kHeadBytes = KEYS * kBoxRowBytes;  // of keys, or of values
  static constexpr int kQueriesAt = 2 * kStages * kHeadBytes;
  static constexpr int kStageAt = kQueriesAt + kStages * kGroups * kTileBytes;
  static constexpr int kRingsAt = kStageAt + kGroups * kTileBytes;
  static constexpr int kBytes = kRingsAt + (2 + kGroups) * Ring<kStages>::kBytes;

  using Keys = BlockedTile<KEYS>;
  using Queries = BlockedTile<kGroupRows>;

  unsigned start;

  __device__ __forceinline__ Keys keys(int n) const { return {start + n % kStages * kHeadBytes}; }
  __device__ __forceinline__ Keys values(int n) const {
    return {keys(n).address + kStages * kHeadBytes};
  }
  __device__ __forceinline__ Queries queries(int group, int n) const {
    return {start + kQueriesAt + (kStages * group + n % kStages) * kTileBytes};
  }
  __device__ __forceinline__ unsigned stage(int group) const {
    return start + kStageAt + group * kTileBytes;
  }
  __device__ __forceinline__ Ring<kStages> key_ring() const { return ring(0); }
  __device__ __forceinline__ Ring<kStages> value_ring() const { return ring(1); }
  __device__ __forceinline__ Ring<kStages> query_ring(int group) const { return ring(2 + group); }

 private:
  __device__ __forceinline__ Ring<kStages> ring(int number) const {
    return {start + kRingsAt + number * Ring<kStages>::kBytes};
  }
};
static_assert(Shared<208>::kBytes == 155776 && Shared<272>::kBytes == 188544,
              "mirrored by the host");

// Starts the copies. The warpgroups take tiles in turn, counted over all units. One thread.
template <int KEYS>
__device__ __forceinline__ void produce(const AttentionScalars& scalars, const Units& units,
                                        const TensorMap& q, const TensorMap& k, const TensorMap& v,
                                        const Shared<KEYS>& shared) {
  int number = 0, tile = 0;
  const unsigned count = units.count;
  for (unsigned index = blockIdx.x; index < count; index += gridDim.x, ++number) {
    const Unit unit = unit_at(scalars, units, index);
    const Corner keys = {0, 0, divide(unit.head, scalars.by_group), unit.batch};
    shared.key_ring().acquire(number, Shared<KEYS>::kHeadBytes);
    shared.value_ring().acquire(number, Shared<KEYS>::kHeadBytes);
    // A box has at most 256 rows.
    for (int row = 0; row < KEYS; row += KEYS / 2) {
      const Corner from = {0, row, keys.head, keys.batch};
      copy_box(shared.keys(number).from_row(row).address, k, from, shared.key_ring().full(number));
      copy_box(shared.values(number).from_row(row).address, v, from,
               shared.value_ring().full(number));
    }
    for (int t = unit.first; t < unit.end; ++t, ++tile) {
      const int group = tile % kGroups, n = tile / kGroups;
      shared.query_ring(group).acquire(n, kTileBytes);
      copy_box(shared.queries(group, n).address, q, {0, t * kGroupRows, unit.head, unit.batch},
               shared.query_ring(group).full(n));
    }
  }
}

// Scores of key FROM * 8 and on become -infinity from `visible` on.
template <int FROM, int N>
__device__ __forceinline__ void hide(float (&scores)[1][N][4], int visible) {
  const int place = visible - fragment_column();
#pragma unroll
  for (int i = 4 * FROM; i < 4 * N; ++i) {
    if (i / 4 * 8 + i % 2 >= place) scores[0][i / 4][i % 4] = -kInfinity;
  }
}

// 64 queries at `queries` against all keys; `ring` gets their place back under number `n`.
template <typename T, int KEYS>
__device__ __forceinline__ void attend(Rows<kColumns, 1>& rows, float multiplier,
                                       BlockedTile<kGroupRows> queries, BlockedTile<KEYS> keys,
                                       BlockedTile<KEYS> values, int visible,
                                       const Ring<kStages>& ring, int n) {
  constexpr int kFragments = KEYS / 8;
  // What one wgmma takes: at most 256 columns.
  constexpr int kPieces = KEYS > 256 ? 2 : 1;
  using Piece = float[1][kFragments / kPieces][4];
  float scores[1][kFragments][4];
  unsigned p[1][KEYS / 16][4];
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    Piece& part = reinterpret_cast<Piece&>(scores[0][piece * kFragments / kPieces]);
    start_scores<T, kColumns>(part, queries, keys.from_row(piece * (KEYS / kPieces)));
  }
  wait_for_products<0>();
  pin(scores[0]);
  ring.release(n);
  if (visible >= KEYS - 16) {
    hide<kFragments - 2>(scores, visible);
  } else {
    hide<0>(scores, visible);
  }
  float correction[2];
  exponentiate(scores, rows, multiplier, correction);
  round_scores<T>(p, scores);
  start_sums<T>(rows.out, p, values);
  wait_for_products<0>();
  pin(rows.out[0]);
  pin(p[0]);
}

// Zeros values from `visible` on. The consumers take part.
template <int KEYS>
__device__ __forceinline__ void clear_values(BlockedTile<KEYS> values, int visible) {
  const SwizzledTile<kColumns> tile = values.block(0);
  for (int i = 8 * visible + threadIdx.x; i < 8 * KEYS; i += kConsumers) {
    store_shared(tile.chunk(i / 8, i % 8), make_uint4(0, 0, 0, 0));
  }
  fence_async_proxy();
  // All are cleared before any warpgroup multiplies with them.
  meet(kCleanedBarrier, kConsumers);
}

template <typename T, int KEYS>
__device__ __forceinline__ void consume(const AttentionScalars& scalars, const Units& units,
                                        const Limits& limits, const Shared<KEYS>& shared, T* out,
                                        float* lse) {
  const int group = warpgroup_number();
  const int warp_row = threadIdx.x % kWarpgroup / 32 * 16;
  int number = 0, tile = 0;
  const unsigned count = units.count;
  for (unsigned index = blockIdx.x; index < count; index += gridDim.x, ++number) {
    const Unit unit = unit_at(scalars, units, index);
    const Sequence sequence = sequence_of(scalars, limits, unit.batch);
    const T* none = nullptr;
    const Head<T> head = head_at(scalars, sequence, unit.head, none, none, kColumns);
    shared.key_ring().wait(number);
    shared.value_ring().wait(number);
    if (sequence.visible < scalars.keys) clear_values(shared.values(number), sequence.visible);
    for (int t = unit.first; t < unit.end; ++t, ++tile) {
      if (tile % kGroups != group) continue;
      const int n = tile / kGroups;
      Rows<kColumns, 1> rows;
      clear(rows);
      shared.query_ring(group).wait(n);
      attend<T>(rows, scalars.scale * kLog2E, shared.queries(group, n), shared.keys(number),
                shared.values(number), sequence.visible, shared.query_ring(group), n);
      finish(rows, head, out + start_of(scalars.out, unit.batch, sequence.queries, unit.head),
             lse + lse_start(scalars, sequence, unit.head, false), t * kGroupRows + warp_row,
             SwizzledTile<kColumns>{shared.stage(group)}, warp_row);
    }
    shared.key_ring().release(number);
    shared.value_ring().release(number);
  }
}

template <typename T, int KEYS>
__device__ __forceinline__ void forward_short(const AttentionScalars& scalars, const Units& units,
                                              const int* kv_lengths, const TensorMap& q,
                                              const TensorMap& k, const TensorMap& v, T* out,
                                              float* lse) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const Shared<KEYS> shared = {shared_address(memory)};
  if (threadIdx.x == 0) {
    shared.key_ring().init(kConsumers / 32);
    shared.value_ring().init(kConsumers / 32);
    for (int group = 0; group < kGroups; ++group) shared.query_ring(group).init(kWarpgroup / 32);
    publish_barriers();
  }
  // The barriers are there.
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    keep_registers<kProducerRegisters>();
    if (threadIdx.x == kConsumers) produce<KEYS>(scalars, units, q, k, v, shared);
  } else {
    take_registers<kConsumerRegisters>();
    consume<T, KEYS>(scalars, units, {kv_lengths, nullptr, nullptr}, shared, out, lse);
  }
}

#define FORWARD_SHORT(SYMBOL, T, KEYS)                                                          \
  extern "C" __global__ void __launch_bounds__(kThreads, 1)                                     \
  SYMBOL(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,              \
         const __grid_constant__ TensorMap v, const __grid_constant__ AttentionScalars scalars, \
         Units units, const int* kv_lengths, T* out, float* lse) {                              \
    forward_short<T, KEYS>(scalars, units, kv_lengths, q, k, v, out, lse);                      \
  }

// ViT at 14 x 14 patches, and at 16 x 16.
FORWARD_SHORT(attention_forward_short_sm90_k208_f16, __half, 208)
FORWARD_SHORT(attention_forward_short_sm90_k208_bf16, __nv_bfloat16, 208)
FORWARD_SHORT(attention_forward_short_sm90_k272_f16, __half, 272)
FORWARD_SHORT(attention_forward_short_sm90_k272_bf16, __nv_bfloat16, 272)
