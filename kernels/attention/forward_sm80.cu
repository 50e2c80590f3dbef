// Attention, forward, for 16-bit elements: out = softmax(scores) v, and the log-sum-exp.
//
// Reads:   q [B, Nq, H, D], k and v [B, Nk, Hkv, D], or packed [Tq, H, D] and [Tk, Hkv, D], by
//          strides, at multiples of 16 bytes; bias [B or 1, H or 1, Nq, Nk], kv_lengths [B],
//          offsets [B + 1], each or null
// Writes:  out like q; lse [B, H, Nq], or packed [H, Tq]; every element once
// Launch:  <<<B * H * ceil(Nq / rows), 128, (rows + 128) * columns * 2 bytes>>> with rows and
//          columns as in `Shape`; the first tile's blocks also write the rows that no sequence has
// Order:   a block owns its rows and takes the keys in ascending order: nothing depends on the
//          schedule
// Cost:    per tile of `rows` queries: q, out and lse once, the keys and values it sees once (from
//          L2 for all but the first tile of a head); 4 Nq Nk D operations, tiles without sight left
//          out, and half a microsecond of exponentials for each 2.1 million scores
// Source:  Dao, "FlashAttention-2", 2023; see src/reference/attention.rs for the definition
// archs: sm_80

#include "attention/forward_tile.cuh"

#include <type_traits>

// Four warps of M x 16 queries. With 32 queries a fragment of keys or values that is read from
// shared memory serves two products: 16 would need 256 bytes for each 4096 operations, more than
// the 128 bytes a cycle that a multiprocessor has beside mma.sync. At D = 256 the output of 32
// queries would fill the register file alone.
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
// Resident blocks: two leave a lane 255 registers, and the one computes while the other waits.
constexpr int kBlocks = 2;

template <int D>
struct Shape {
  static constexpr int kM = D <= 128 ? 2 : 1;
  static constexpr int kRows = 16 * kM * kWarps;
};

template <typename T, int D>
__device__ __forceinline__ void forward(const AttentionScalars& scalars, const Blocks& blocks,
                                        const Limits& limits, const T* q, const T* k, const T* v,
                                        const T* bias, T* out, float* lse) {
  constexpr int kM = Shape<D>::kM;
  constexpr int kRows = Shape<D>::kRows;
  extern __shared__ __align__(128) unsigned char shared[];
  const SwizzledTile<D> q_tile = {shared_address(shared)};
  const SwizzledTile<D> k_tile = {q_tile.address + kRows * SwizzledTile<D>::kRowBytes};
  const SwizzledTile<D> v_tile = {k_tile.address + kTileKeys * SwizzledTile<D>::kRowBytes};

  const Block block = this_block(blocks);
  const Sequence sequence = sequence_of(scalars, limits, block.batch);
  const bool packed = limits.offsets_q != nullptr;
  if (packed && block.tile == 0) {
    write_between(scalars, sequence, out + block.head * scalars.out.head,
                  lse + 1LL * block.head * scalars.total_queries, blockDim.x);
  }
  const int first = block.tile * kRows;
  if (first >= sequence.queries.count) return;

  const int kv_head = divide(block.head, scalars.by_group);
  q += start_of(scalars.q, block.batch, sequence.queries, block.head) + first * scalars.q.token;
  k += start_of(scalars.k, block.batch, sequence.keys, kv_head);
  v += start_of(scalars.v, block.batch, sequence.keys, kv_head);
  const Head<T> head = head_at(scalars, sequence, block.head, v, bias, D);

  const int chunks = scalars.head_dim / 8;
  const auto copy_tile = [&](const SwizzledTile<D>& tile, const T* from, long long stride, int key) {
    tile.copy_rows(from + key * stride, stride, kTileKeys, sequence.visible - key, chunks,
                   threadIdx.x, kThreads);
    commit_copies();
  };
  const int last = min(first + kRows, sequence.queries.count) - 1;
  const Range seen = seen_by_any(scalars, sequence, first, last);
  const int begin = seen.begin / kTileKeys * kTileKeys;
  q_tile.copy_rows(q, scalars.q.token, kRows, last - first + 1, chunks, threadIdx.x, kThreads);
  copy_tile(k_tile, k, scalars.k.token, begin);

  const int warp_row = threadIdx.x / 32 * 16 * kM;
  const int query = first + warp_row;
  Rows<D, kM> rows;
  clear(rows);
  // One tile. The values come while scores are computed, the next keys while these are used.
  const auto step = [&](auto is_plain, int key) {
    constexpr bool kPlain = decltype(is_plain)::value;
    Sight mine = {kTileKeys, true};
    if (!kPlain) mine = sight<kTileKeys>(scalars, sequence, query, min(query + 16 * kM - 1, last), key);
    Scores<kM> scores;
    wait_for_copies<0>();
    // The queries and this tile's keys are there, and all warps have read the last tile's values.
    __syncthreads();
    copy_tile(v_tile, v, scalars.v.token, key);
    if (mine.keys > 0) {
      score<T, kPlain>(scores, q_tile, warp_row, k_tile, 0, scalars.head_dim, mine.keys);
    }
    wait_for_copies<0>();
    bool cleaned = false;
    if (!kPlain && has_window(scalars)) {
      cleaned = remove_non_finite<T>(v_tile, kTileKeys, chunks, threadIdx.x, kThreads);
    }
    // This tile's values are there, and all warps have read its keys.
    cleaned = kPlain ? (__syncthreads(), false) : __syncthreads_or(cleaned);
    if (key + kTileKeys < seen.end) copy_tile(k_tile, k, scalars.k.token, key + kTileKeys);
    if (mine.keys == 0) return;
    absorb<T, kPlain>(rows, scores, head, v_tile, 0, query, key, mine);
    if (cleaned) {
      restore_non_finite<T, D, kM>(rows.out, head, query, key, key + mine.keys);
    }
  };
  // The general step spares warps that have no query.
  const bool plain = head.plain && first + kRows - 16 * kM <= last;
  for (int key = begin; key < seen.end; key += kTileKeys) {
    if (plain && sight<kTileKeys>(scalars, sequence, first, last, key).whole) {
      step(std::true_type(), key);
    } else {
      step(std::false_type(), key);
    }
  }
  // A block that sees no key has queries under way still, to the rows that it is about to write.
  wait_for_copies<0>();
  if (seen.end <= begin) __syncthreads();
  out += start_of(scalars.out, block.batch, sequence.queries, block.head);
  lse += lse_start(scalars, sequence, block.head, packed);
  finish(rows, head, out, lse, query, q_tile, warp_row);
}

#define FORWARD(SYMBOL, T, D)                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)                                \
  SYMBOL(FORWARD_PARAMETERS(T), T* out, float* lse) {                                            \
    const Limits limits = {kv_lengths, offsets_q, offsets_k};                                    \
    forward<T, D>(scalars, blocks, limits, q, k, v, bias, out, lse);                             \
  }

FORWARD(attention_forward_d64_f16, __half, 64)
FORWARD(attention_forward_d64_bf16, __nv_bfloat16, 64)
FORWARD(attention_forward_d128_f16, __half, 128)
FORWARD(attention_forward_d128_bf16, __nv_bfloat16, 128)
FORWARD(attention_forward_d256_f16, __half, 256)
FORWARD(attention_forward_d256_bf16, __nv_bfloat16, 256)
