// Attention, forward, for 16-bit elements, few queries and many keys (decoding): every warp takes a
// share of the keys, and a second kernel adds the shares.
//
// Reads:   as forward_sm80.cu
// Writes:  attention_split: partial [B * H, Nq, parts, D] f32, each scaled by 2^-peak, and weights
//          [B * H, Nq, parts] (peak, sum); attention_combine: out and lse as forward_sm80.cu
// Launch:  split <<<B * Hkv * row_tiles * splits, 32 * warps, (16 + 128 * warps) * columns * 2
//          bytes>>> with row_tiles = ceil(Nq * H / Hkv / 16), warps at most 4, parts = splits *
//          warps; combine <<<B * H, 128>>>
// Order:   the shares depend on the number of keys and of parts, and are added in ascending order
// Cost:    keys and values once for every 16 rows of (query, head): the query heads that share a key
//          head are rows of one product; partials written and read once
// Source:  Dao et al., "Flash-Decoding", 2023; as forward_sm80.cu
// archs: sm_80

#include "attention/forward_tile.cuh"

constexpr int kRows = 16;
constexpr int kMaxThreads = 128;
constexpr int kCombineThreads = 128;

// Buffers of the partial results.
struct Partials {
  float* out;
  float2* weights;
  int parts;
};

// Starts the copies of the rows' queries, which lie head by head.
template <typename T, int D>
__device__ __forceinline__ void copy_queries(const SwizzledTile<D>& to, const T* q,
                                             const Head<T, true>& head, int kv_head, int first) {
  const AttentionScalars& scalars = head.scalars;
  constexpr int kChunks = SwizzledTile<D>::kChunks;
  const int first_head = kv_head * (scalars.heads / scalars.kv_heads);
  for (int i = threadIdx.x; i < kRows * kChunks; i += blockDim.x) {
    const int row = first + i / kChunks, column = i % kChunks;
    const int query = head.query_of(row);
    const bool valid = query < head.sequence.queries.count && 8 * column < scalars.head_dim;
    const T* from = q + start_of(scalars.q, head.sequence.batch, head.sequence.queries,
                                 first_head + head.head_of(row)) +
                    query * scalars.q.token + 8 * column;
    copy_async(to.chunk(i / kChunks, column), valid ? from : q, valid);
  }
}

// The share of one warp, to `partials`.
template <typename T, int D>
__device__ __forceinline__ void write_part(Rows<D, 1>& rows, const Head<T, true>& head,
                                           const Partials& partials, int first, int part) {
  const AttentionScalars& scalars = head.scalars;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = row_sum(rows.sum[i]);
    const int row = first + 8 * i + fragment_row();
    const int query = head.query_of(row);
    if (query >= head.sequence.queries.count) continue;
    const long long number = 1LL * (head.number + head.head_of(row)) * scalars.queries + query;
    const long long place = number * partials.parts + part;
    if (threadIdx.x % 4 == 0) partials.weights[place] = make_float2(rows.peak[i], sum);
    float* out = partials.out + place * scalars.head_dim + fragment_column();
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      if (8 * n >= scalars.head_dim) break;
      const float* from = &rows.out[0][n][2 * i];
      *reinterpret_cast<float2*>(out + 8 * n) = make_float2(from[0], from[1]);
    }
  }
}

template <typename T, int D>
__device__ __forceinline__ void split(const AttentionScalars& scalars, const Blocks& blocks,
                                      int splits, const Limits& limits, const T* q, const T* k,
                                      const T* v, const T* bias, const Partials& partials) {
  using Tile = SwizzledTile<D>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Tile q_tile = {shared_address(shared)};
  // Keys and values of this warp alone.
  const Tile k_tile = {q_tile.address + (kRows + 2 * kTileKeys * warp) * Tile::kRowBytes};
  const Tile v_tile = {k_tile.address + kTileKeys * Tile::kRowBytes};

  const Block block = this_block(blocks);
  const int kv_head = block.head;
  const int first = block.tile / splits * kRows;
  const int part = block.tile % splits * (blockDim.x / 32) + warp;
  const Sequence sequence = sequence_of(scalars, limits, block.batch);
  const int group = scalars.heads / scalars.kv_heads;
  k += start_of(scalars.k, block.batch, sequence.keys, kv_head);
  v += start_of(scalars.v, block.batch, sequence.keys, kv_head);
  const Head<T, true> head = head_at<true>(scalars, sequence, kv_head * group, v, bias, D);
  const int first_query = head.query_of(first);
  if (first_query >= sequence.queries.count) return;
  const int last_query = min(head.query_of(first + kRows - 1), sequence.queries.count - 1);

  copy_queries(q_tile, q, head, kv_head, first);
  commit_copies();
  // Tiles of 64 keys, in runs of equal length.
  const Range seen = seen_by_any(scalars, sequence, first_query, last_query);
  const int start = seen.begin / kTileKeys * kTileKeys;
  const int tiles = (max(seen.end - start, 0) + kTileKeys - 1) / kTileKeys;
  const int run = (tiles + partials.parts - 1) / partials.parts * kTileKeys;
  const int begin = start + part * run;
  const int end = min(begin + run, seen.end);
  const int chunks = scalars.head_dim / 8;
  const auto copy_tile = [&](const Tile& to, const T* from, long long stride, int key) {
    if (key < end) {
      to.copy_rows(from + key * stride, stride, kTileKeys, sequence.visible - key, chunks, lane, 32);
    }
    commit_copies();
  };
  copy_tile(k_tile, k, scalars.k.token, begin);
  copy_tile(v_tile, v, scalars.v.token, begin);
  wait_for_copies<2>();
  // The queries are there. From here on each warp is by itself.
  __syncthreads();

  Rows<D, 1> rows;
  clear(rows);
  for (int key = begin; key < end; key += kTileKeys) {
    const Sight mine = sight<kTileKeys>(scalars, sequence, first_query, last_query, key);
    Scores<1> scores;
    wait_for_copies<1>();
    // All lanes' keys are there.
    __syncwarp();
    score<T, false>(scores, q_tile, 0, k_tile, 0, scalars.head_dim, mine.keys);
    // All lanes have read them.
    __syncwarp();
    copy_tile(k_tile, k, scalars.k.token, key + kTileKeys);
    wait_for_copies<1>();
    bool cleaned = false;
    if (has_window(scalars)) {
      cleaned = remove_non_finite<T>(v_tile, kTileKeys, chunks, lane, 32);
    }
    // All lanes' values are there.
    cleaned = __any_sync(kFullWarp, cleaned);
    __syncwarp();
    absorb<T, false>(rows, scores, head, v_tile, 0, first, key, mine);
    if (cleaned) restore_non_finite<T, D, 1>(rows.out, head, first, key, key + mine.keys);
    // All lanes have read them.
    __syncwarp();
    copy_tile(v_tile, v, scalars.v.token, key + kTileKeys);
  }
  wait_for_copies<0>();
  write_part<T, D>(rows, head, partials, first, part);
}

// Adds the parts of one query of one head: a warp, in ascending order.
template <typename T>
__device__ __forceinline__ void combine_row(const AttentionScalars& scalars,
                                            const Partials& partials, long long number, T* out,
                                            float* lse) {
  constexpr int kPairs = 4;  // of columns 64 apart: 256 columns over 32 lanes
  const int lane = threadIdx.x % 32;
  const float2* weights = partials.weights + number * partials.parts;
  const float* from = partials.out + number * partials.parts * scalars.head_dim + 2 * lane;
  float peak = -kInfinity;
  for (int part = lane; part < partials.parts; part += 32) peak = fmaxf(peak, weights[part].x);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    peak = fmaxf(peak, __shfl_xor_sync(kFullWarp, peak, distance));
  }
  const float base = finite_peak(peak);
  float sum = 0.0f, sums[kPairs][2] = {};
  for (int first = 0; first < partials.parts; first += 32) {
    float mine = 0.0f;
    if (first + lane < partials.parts) {
      const float2 weight = weights[first + lane];
      mine = exp2_approximate(weight.x - base);
      sum = fmaf(mine, weight.y, sum);
    }
    for (int i = 0; i < min(32, partials.parts - first); ++i) {
      const float weight = __shfl_sync(kFullWarp, mine, i);
#pragma unroll
      for (int c = 0; c < kPairs; ++c) {
        if (2 * lane + 64 * c >= scalars.head_dim) break;
        const float2 part = *reinterpret_cast<const float2*>(from + 64 * c);
        sums[c][0] = fmaf(weight, part.x, sums[c][0]);
        sums[c][1] = fmaf(weight, part.y, sums[c][1]);
      }
      from += scalars.head_dim;
    }
  }
  sum = __shfl_sync(kFullWarp, warp_sum(sum), 0);
  const float scale = sum == 0.0f ? 0.0f : scalars.kept_scale / sum;
  if (lane == 0) *lse = sum == 0.0f ? -kInfinity : fmaf(peak, kLn2, logf(sum));
#pragma unroll
  for (int c = 0; c < kPairs; ++c) {
    const int column = 2 * lane + 64 * c;
    if (column >= scalars.head_dim) break;
    const float pair[2] = {sums[c][0] * scale, sums[c][1] * scale};
    *reinterpret_cast<unsigned*>(out + column) = pack(pair, T());
  }
}

template <typename T>
__device__ __forceinline__ void combine(const AttentionScalars& scalars, const Blocks& blocks,
                                        const Limits& limits, const Partials& partials, T* out,
                                        float* lse) {
  const Block block = this_block(blocks);
  const Sequence sequence = sequence_of(scalars, limits, block.batch);
  const bool packed = limits.offsets_q != nullptr;
  if (packed) {
    write_between(scalars, sequence, out + block.head * scalars.out.head,
                  lse + 1LL * block.head * scalars.total_queries, blockDim.x);
  }
  out += start_of(scalars.out, block.batch, sequence.queries, block.head);
  lse += lse_start(scalars, sequence, block.head, packed);
  const long long number = 1LL * (block.batch * scalars.heads + block.head) * scalars.queries;
  for (int i = threadIdx.x / 32; i < sequence.queries.count; i += kCombineThreads / 32) {
    combine_row(scalars, partials, number + i, out + i * scalars.out.token, lse + i);
  }
}

#define SPLIT(SYMBOL, T, D)                                                                      \
  extern "C" __global__ void __launch_bounds__(kMaxThreads)                                      \
  SYMBOL(FORWARD_PARAMETERS(T), float* partial, float2* weights, int splits) {                   \
    const int parts = splits * (blockDim.x / 32);                                                \
    split<T, D>(scalars, blocks, splits, {kv_lengths, offsets_q, offsets_k}, q, k, v, bias,      \
                {partial, weights, parts});                                                      \
  }

SPLIT(attention_split_d64_f16, __half, 64)
SPLIT(attention_split_d64_bf16, __nv_bfloat16, 64)
SPLIT(attention_split_d128_f16, __half, 128)
SPLIT(attention_split_d128_bf16, __nv_bfloat16, 128)
SPLIT(attention_split_d256_f16, __half, 256)
SPLIT(attention_split_d256_bf16, __nv_bfloat16, 256)

#define COMBINE(SYMBOL, T)                                                                       \
  extern "C" __global__ void __launch_bounds__(kCombineThreads, 8)                               \
  SYMBOL(AttentionScalars scalars, Blocks blocks, const int* kv_lengths, const int* offsets_q,   \
         const int* offsets_k, float* partial, float2* weights, int parts, T* out, float* lse) { \
    const Limits limits = {kv_lengths, offsets_q, offsets_k};                                    \
    combine(scalars, blocks, limits, {partial, weights, parts}, out, lse);                       \
  }

COMBINE(attention_combine_f16, __half)
COMBINE(attention_combine_bf16, __nv_bfloat16)
