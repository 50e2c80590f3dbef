// Gradients of attention's queries, keys and values where a block holds all keys of a head, and
// every query sees all keys of its sequence.
//
// Reads:   q [B, Nq, H, D], k, v [B, Nk, Hkv, D], dout like q, T, strided; D <= 64, Nk <= 256;
//          log_sum_exps, deltas: the statistics of backward_rows.cu; limits. No causal mask or
//          window, bias, soft cap or dropout: `bias` is null
// Writes:  dq [B, Nq, H, D], dk, dv [B, Nk, Hkv, D] T, strided
// Launch:  <<<B * Hkv, 32 * ceil(Nk / 16), 384 bytes a key and 33 KiB>>>
// Order:   a block adds queries in order, head after head, and each query's keys in order
// Cost:    5 products of 2 Nq Nk D operations a query head; each tensor read or written once
// Source:  as backward_keys_sm80.cu; the gradient of the queries of a tile needs no sum over blocks
//          because its keys are all here
// archs: sm_80

#include "attention/backward_keys.cuh"

// A warp owns 16 keys: 197 are padded to 208. 16 warps leave 128 registers a thread, 64 of them for
// sums; what is left does not hold what masks and biases need.
struct ShortBlock : KeyBlock<64, 1, 16, 64, 16> {
  static constexpr int kRowBytes = 2 * D;
  // By keys, then values, then gradients of scores [keys, 64 queries] in rows as long as theirs.
  static __device__ __forceinline__ int part_bytes() { return blockDim.x / 2 * kRowBytes; }
  static_assert(COLUMNS == D, "a tile's gradients of scores have rows as long as a key's");
};

// `differentiate` of backward_step.cuh without what these problems lack. A key from `live` of the
// warp's on is no key: its product is 0, but exp(0 - lse) may be infinite.
template <int N>
__device__ __forceinline__ void differentiate_plain(float (&scores)[1][N][4],
                                                    float (&slopes)[1][N][4], float scale, int live,
                                                    const ColumnStatistic<N>& log_sum_exps,
                                                    const ColumnStatistic<N>& deltas) {
  for_each_element<1, N>([&](int m, int n, int e) {
    const float score = fmaf(scores[m][n][e], scale * kLog2E, -log_sum_exps(m, n, e));
    const float slope = scale * (slopes[m][n][e] - deltas(m, n, e));
    const bool exists = fragment_row() + e / 2 * 8 < live;
    scores[m][n][e] = exists ? exp2_approximate(score) : 0.0f;
    slopes[m][n][e] = exists ? scores[m][n][e] * slope : 0.0f;
  });
}

// Adds a tile of queries to the warp's sums, and stores the gradients of its scores, by keys.
template <typename T>
__device__ __forceinline__ void add_tile(float (&dk)[1][8][4], float (&dv)[1][8][4],
                                         const OwnKeys<T>& block, unsigned stage, int queries) {
  constexpr int D = ShortBlock::D, N = ShortBlock::STEP / 8;
  const AttentionScalars& forward = block.scalars.forward;
  const int steps = (forward.head_dim + 15) / 16;
  const int first_key = threadIdx.x / 32 * 16;
  const unsigned own = block.own + first_key * ShortBlock::kRowBytes;
  const unsigned part = ShortBlock::part_bytes();
  const SwizzledTile<D> keys{own}, values{own + part}, gradients{own + 2 * part};
#pragma unroll 1
  for (int column = 0; column < min(ShortBlock::COLUMNS, queries); column += ShortBlock::STEP) {
    const SwizzledTile<D> q{stage + column * ShortBlock::kRowBytes};
    const SwizzledTile<D> dout{q.address + ShortBlock::kTileBytes};
    const unsigned statistics = stage + 2 * ShortBlock::kTileBytes + 4 * column;
    float scores[1][N][4], slopes[1][N][4];
    multiply_rows<T, D>(scores, keys, q, steps);
    multiply_rows<T, D>(slopes, values, dout, steps);
    differentiate_plain(scores, slopes, forward.scale, block.sequence.visible - first_key,
                        ColumnStatistic<N>(statistics),
                        ColumnStatistic<N>(statistics + ShortBlock::kStatisticsBytes));
    unsigned weights[1][N / 2][4];
    round_scores<T>(weights, scores);
    accumulate<T>(dv, weights, dout, steps);
    round_scores<T>(weights, slopes);
    accumulate<T>(dk, weights, q, steps);
    const int row = fragment_row();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned to = gradients.chunk(row + i % 2 * 8, column / 8 + i / 2);
      store_shared(to + 2 * fragment_column(), weights[0][0][i]);
    }
  }
}

// The gradient of 16 queries by 16 of their elements, number `unit` of the tile's 16, to its place
// in `to`: gradients of scores, which lie by keys, times keys.
template <typename T>
__device__ __forceinline__ void multiply_keys(const OwnKeys<T>& block, int unit,
                                              SwizzledTile<64> to) {
  const int m = unit % 4, d = unit / 4;
  const SwizzledTile<64> keys{block.own};
  const SwizzledTile<64> gradients{block.own + 2 * ShortBlock::part_bytes()};
  float sums[2][4] = {};
#pragma unroll 4
  for (int key = 0; key < block.sequence.visible; key += 16) {
    unsigned a[4], b[4];
    load_matrices_transposed(a, gradients.by_columns(key, 2 * m));
    load_matrices_transposed(b, keys.by_rows(key, 2 * d));
    multiply_add(sums[0], a, b[0], b[1], T());
    multiply_add(sums[1], a, b[2], b[3], T());
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned place = to.chunk(16 * m + fragment_row() + 8 * half, 2 * d + n);
      store_shared(place + 2 * fragment_column(), pack(sums[n] + 2 * half, T()));
    }
  }
}

// Gradients of a tile's queries, through the shared memory that held the queries.
template <typename T>
__device__ __forceinline__ void write_queries(const OwnKeys<T>& block, unsigned stage,
                                              int query_head, int first_query, T* dq) {
  const int head_dim = block.scalars.forward.head_dim, warps = blockDim.x / 32;
  const SwizzledTile<64> tile{stage};
  // The gradients of the scores are there for all, and all are done with the queries.
  __syncthreads();
  const Strides& strides = block.scalars.dq;
  const int rows = min(ShortBlock::COLUMNS, block.sequence.queries.count - first_query);
  for (int unit = threadIdx.x / 32; unit < (head_dim + 15) / 16 * 4; unit += warps) {
    if (unit % 4 * 16 < rows) multiply_keys(block, unit, tile);
  }
  // The tile is there for all.
  __syncthreads();
  T* const to = dq + start_of(strides, block.sequence.batch, block.sequence.queries, query_head) +
                first_query * strides.token;
  const int chunk = threadIdx.x % 8;
  for (int row = threadIdx.x / 8; row < rows && 8 * chunk < head_dim; row += blockDim.x / 8) {
    __stwb(reinterpret_cast<uint4*>(to + row * strides.token + 8 * chunk),
           load_shared(tile.chunk(row, chunk)));
  }
}

// Gradients of all queries of the heads that share a block's keys, and the sums of its keys'.
template <typename T>
__device__ __forceinline__ void add_all(float (&dk)[1][8][4], float (&dv)[1][8][4],
                                        const OwnKeys<T>& block, T* dq) {
  const AttentionScalars& forward = block.scalars.forward;
  const int tiles =
      (block.sequence.queries.count + ShortBlock::COLUMNS - 1) / ShortBlock::COLUMNS;
  const int group = forward.heads / forward.kv_heads;
  int head = block.kv_head * group, tile = 0;
  for (int round = 0; round < tiles * group; ++round) {
    const unsigned stage = block.stages + round % 2 * ShortBlock::kStageBytes;
    const int this_head = head, first_query = tile * ShortBlock::COLUMNS;
    if (++tile == tiles) {
      tile = 0;
      ++head;
    }
    wait_for_copies<0>();
    // This round's copies are there for all, and all are done with the other stage and with the
    // gradients of the last scores.
    __syncthreads();
    if (round + 1 < tiles * group) {
      fetch_queries<ShortBlock>(block.scalars, block.inputs, block.sequence,
                                block.stages + (round + 1) % 2 * ShortBlock::kStageBytes, head,
                                tile, blockDim.x);
    }
    commit_copies();
    add_tile(dk, dv, block, stage, block.sequence.queries.count - first_query);
    write_queries(block, stage, this_head, first_query, dq);
  }
}

// Zeros for the tokens that belong to no sequence, of all that a block writes.
template <typename T>
__device__ __forceinline__ void write_all_gaps(const BackwardScalars& scalars,
                                               const Sequence& sequence, int kv_head, T* dq, T* dk,
                                               T* dv) {
  const int head_dim = scalars.forward.head_dim;
  const int group = scalars.forward.heads / scalars.forward.kv_heads;
  write_gaps(dk, scalars.dk, sequence, sequence.keys, kv_head, head_dim);
  write_gaps(dv, scalars.dv, sequence, sequence.keys, kv_head, head_dim);
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    write_gaps(dq, scalars.dq, sequence, sequence.queries, head, head_dim);
  }
}

template <typename T>
__device__ __forceinline__ void short_gradients(const BackwardScalars& scalars, const Block& place,
                                                const BackwardInputs<T>& inputs, T* dq, T* dk, T* dv) {
  constexpr int D = ShortBlock::D;
  extern __shared__ __align__(128) unsigned char shared[];
  const AttentionScalars& forward = scalars.forward;
  const Sequence sequence = sequence_of(forward, inputs.limits, place.batch);
  const int kv_head = place.head;
  write_all_gaps(scalars, sequence, kv_head, dq, dk, dv);
  const unsigned own = shared_address(shared), part = ShortBlock::part_bytes();
  const OwnKeys<T> block{scalars, inputs, sequence, kv_head, 0, own, own + 3 * part};
  fetch_keys<D>(block, blockDim.x / 2, blockDim.x);
  if (sequence.queries.count > 0) {
    fetch_queries<ShortBlock>(scalars, inputs, sequence, block.stages,
                              kv_head * (forward.heads / forward.kv_heads), 0, blockDim.x);
  }
  commit_copies();
  float of_dk[1][D / 8][4] = {}, of_dv[1][D / 8][4] = {};
  add_all(of_dk, of_dv, block, dq);
  wait_for_copies<0>();
  // All are done with the keys, which now give way to their gradients.
  __syncthreads();
  const int row = threadIdx.x / 32 * 16;
  write_keys<D>(of_dk, block, own, row, dk, scalars.dk);
  write_keys<D>(of_dv, block, own + part, row, dv, scalars.dv);
}

#define SHORT_GRADIENTS(SYMBOL, T)                                                               \
  extern "C" __global__ void __launch_bounds__(ShortBlock::kThreads, 1)                          \
  SYMBOL(BACKWARD_PARAMETERS(T), T* dq, T* dk, T* dv) {                                          \
    short_gradients(scalars, this_block(blocks), BACKWARD_INPUTS(T), dq, dk, dv);                \
  }

SHORT_GRADIENTS(attention_backward_short_f16, __half)
SHORT_GRADIENTS(attention_backward_short_bf16, __nv_bfloat16)
