// Attention, forward, for 16-bit elements and few keys: a block holds all keys and values of a head.
//
// Reads:   as forward_sm80.cu, D at most 64
// Writes:  as forward_sm80.cu
// Launch:  <<<B * H * splits, 32 * warps, (32 * warps + 2 * key_rows) * 128 bytes>>>, warps at most
//          4, key_rows >= Nk a multiple of 16; the warps of a head's blocks take its tiles of 32
//          queries in turn, and the first tile's block also writes the rows that no sequence has
// Order:   a warp owns its rows and takes the keys in ascending order: nothing depends on the
//          schedule
// Cost:    q, out and lse once, keys and values once a block; no barrier after the first; keys and
//          their scores are computed 16 at a time, so that 197 keys cost 208 and not 256
// Source:  as forward_sm80.cu
// archs: sm_80

#include "attention/forward_tile.cuh"

constexpr int kColumns = 64;
constexpr int kM = 1;
constexpr int kWarpRows = 16 * kM;
constexpr int kMaxThreads = 128;
// What the register file holds at 128 registers a lane: blocks that load while others compute.
constexpr int kBlocks = 4;

template <typename T>
__device__ __forceinline__ void forward_short(const AttentionScalars& scalars, const Blocks& blocks,
                                              int key_rows, const Limits& limits, const T* q,
                                              const T* k, const T* v, const T* bias, T* out,
                                              float* lse) {
  using Tile = SwizzledTile<kColumns>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Tile k_tile = {shared_address(shared)};
  const Tile v_tile = {k_tile.address + key_rows * Tile::kRowBytes};
  // Queries, then outputs, of this warp.
  const Tile q_tile = {v_tile.address + (key_rows + kWarpRows * warp) * Tile::kRowBytes};

  const Block block = this_block(blocks);
  const Sequence sequence = sequence_of(scalars, limits, block.batch);
  const bool packed = limits.offsets_q != nullptr;
  if (packed && block.tile == 0) {
    write_between(scalars, sequence, out + block.head * scalars.out.head,
                  lse + 1LL * block.head * scalars.total_queries, blockDim.x);
  }
  const int queries = sequence.queries.count;
  if (block.tile * warps * kWarpRows >= queries) return;

  const int kv_head = divide(block.head, scalars.by_group);
  k += start_of(scalars.k, block.batch, sequence.keys, kv_head);
  v += start_of(scalars.v, block.batch, sequence.keys, kv_head);
  const Head<T> head = head_at(scalars, sequence, block.head, v, bias, kColumns);

  const int chunks = scalars.head_dim / 8;
  const int rows_present = (sequence.visible + 15) / 16 * 16;
  k_tile.copy_rows(k, scalars.k.token, rows_present, sequence.visible, chunks, threadIdx.x,
                   blockDim.x);
  v_tile.copy_rows(v, scalars.v.token, rows_present, sequence.visible, chunks, threadIdx.x,
                   blockDim.x);
  const auto copy_queries = [&](int query) {
    const long long start = start_of(scalars.q, block.batch, sequence.queries, opaque(block.head));
    q_tile.copy_rows(q + start + query * scalars.q.token, scalars.q.token, kWarpRows,
                     queries - query, chunks, lane, 32);
    commit_copies();
    wait_for_copies<0>();
  };
  int query = (block.tile * warps + warp) * kWarpRows;
  copy_queries(query);
  bool cleaned = false;
  if (has_window(scalars)) {
    cleaned = remove_non_finite<T>(v_tile, rows_present, chunks, threadIdx.x, blockDim.x);
  }
  // All keys and values, and this warp's first queries, are there.
  cleaned = __syncthreads_or(cleaned);

  while (query < queries) {
    const int last = min(query + kWarpRows, queries) - 1;
    const Range seen = seen_by_any(scalars, sequence, query, last);
    Rows<kColumns, kM> rows;
    clear(rows);
    for (int key = seen.begin / kTileKeys * kTileKeys; key < seen.end; key += kTileKeys) {
      const Sight mine = sight<kTileKeys>(scalars, sequence, query, last, key);
      Scores<kM> scores;
      if (head.plain && mine.whole) {
        score<T, true>(scores, q_tile, 0, k_tile, key, kColumns, kTileKeys);
        absorb<T, true>(rows, scores, head, v_tile, key, query, key, mine);
      } else if (mine.keys > 0) {
        score<T, false>(scores, q_tile, 0, k_tile, key, scalars.head_dim, mine.keys);
        absorb<T, false>(rows, scores, head, v_tile, key, query, key, mine);
      }
      // Also of tiles that are seen whole: the values were cleaned for all the block's queries.
      if (cleaned) {
        restore_non_finite<T, kColumns, kM>(rows.out, head, query, key, key + mine.keys);
      }
    }
    // Where the rows go is cheaper to compute again than to keep.
    const int number = opaque(block.head);
    finish(rows, head, out + start_of(scalars.out, block.batch, sequence.queries, number),
           lse + lse_start(scalars, sequence, number, packed), query, q_tile, 0);
    query += blocks.tiles * warps * kWarpRows;
    if (query >= queries) break;
    // The lanes have read the outputs that lay where queries come now, and then see all of these.
    __syncwarp();
    copy_queries(query);
    __syncwarp();
  }
}

#define FORWARD_SHORT(SYMBOL, T)                                                                 \
  extern "C" __global__ void __launch_bounds__(kMaxThreads, kBlocks)                             \
  SYMBOL(FORWARD_PARAMETERS(T), T* out, float* lse, int key_rows) {                              \
    const Limits limits = {kv_lengths, offsets_q, offsets_k};                                    \
    forward_short(scalars, blocks, key_rows, limits, q, k, v, bias, out, lse);                   \
  }

FORWARD_SHORT(attention_forward_short_d64_f16, __half)
FORWARD_SHORT(attention_forward_short_d64_bf16, __nv_bfloat16)
