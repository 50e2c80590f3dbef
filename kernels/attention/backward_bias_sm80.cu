// Gradient of attention's bias, on tensor cores: a block owns a tile of the bias and adds up the
// heads and sequences that share it.
//
// Reads:   q [B, Nq, H, D], k, v [B, Nk, Hkv, D], dout like q, T, strided; bias [B or 1, H or 1,
//          Nq, Nk] T; log_sum_exps, deltas: the statistics of backward_rows.cu; kv_lengths
// Writes:  dbias like bias, T
// Launch:  <<<biases * tiles of queries * tiles of keys, 128, Shape::kBytes>>>
// Order:   a block adds the heads of the first sequence, then of the next, in f32, and rounds once
// Cost:    2 products of 2 Nq Nk D operations a head; of each head, the queries read once a tile of
//          keys and the keys once a tile of queries
// Source:  the softmax's Jacobian; see src/reference/attention/gradient.rs
// archs: sm_80

#include "attention/backward_step.cuh"

// A block of 4 warps, each with 16 queries by all keys of the tile: 32 registers of sums beside
// twice as many of scores and their gradients. Of D = 256, 64 KiB of queries leave room for 32 keys
// on every GPU since sm_80.
template <int D_, int KEYS_>
struct BiasBlock {
  static constexpr int D = D_, KEYS = KEYS_;
  static constexpr int kThreads = 128, kQueries = 64;
  static constexpr int kOwnBytes = kQueries * D * 2;  // queries, then output gradients
  static constexpr int kTileBytes = KEYS * D * 2;     // keys, then values
  static constexpr int kBytes = 2 * kOwnBytes + 2 * kTileBytes;
};
using BiasBlock64 = BiasBlock<64, 64>;
using BiasBlock128 = BiasBlock<128, 64>;
using BiasBlock256 = BiasBlock<256, 32>;

// Copies what a tile needs of one head. All threads take part, and wait.
template <typename Shape, typename T>
__device__ __forceinline__ void fetch(const BackwardScalars& scalars, const BackwardInputs<T>& inputs,
                                      const Sequence& sequence, int head, int first_query,
                                      int first_key, unsigned shared) {
  const AttentionScalars& forward = scalars.forward;
  const auto copy = [&](unsigned to, const T* from, const Strides& strides, const Tokens& tokens,
                        int of_head, int first, int rows, int end) {
    from += start_of(strides, sequence.batch, tokens, of_head) + first * strides.token;
    SwizzledTile<Shape::D>{to}.copy_rows(from, strides.token, rows, end - first,
                                         forward.head_dim / 8, threadIdx.x, Shape::kThreads);
  };
  const int kv_head = divide(head, forward.by_group);
  const unsigned keys = shared + 2 * Shape::kOwnBytes;
  copy(shared, inputs.q, forward.q, sequence.queries, head, first_query, Shape::kQueries,
       sequence.queries.count);
  copy(shared + Shape::kOwnBytes, inputs.dout, scalars.dout, sequence.queries, head, first_query,
       Shape::kQueries, sequence.queries.count);
  copy(keys, inputs.k, forward.k, sequence.keys, kv_head, first_key, Shape::KEYS,
       sequence.visible);
  copy(keys + Shape::kTileBytes, inputs.v, forward.v, sequence.keys, kv_head, first_key,
       Shape::KEYS, sequence.visible);
  commit_copies();
  wait_for_copies<0>();
}

// Adds the gradients of one head's scores to the warp's sums.
template <typename Shape, typename T>
__device__ __forceinline__ void add_head(float (&sums)[1][Shape::KEYS / 8][4],
                                         const BackwardScalars& scalars,
                                         const BackwardInputs<T>& inputs, const Sequence& sequence,
                                         int head, const Place<false>& place, unsigned shared) {
  constexpr int D = Shape::D, N = Shape::KEYS / 8;
  const int last_query = min(place.row + 16, sequence.queries.count) - 1;
  const Range some = seen_by_any(scalars.forward, sequence, place.row, last_query);
  const int end = place.column + Shape::KEYS;
  if (place.row > last_query || place.column >= some.end || end <= some.begin) return;
  const Range all = seen_by_all(scalars.forward, sequence, place.row, last_query);
  const int steps = (scalars.forward.head_dim + 15) / 16;
  const unsigned own = shared + threadIdx.x / 32 * 16 * D * 2;
  const unsigned keys = shared + 2 * Shape::kOwnBytes;
  const long long statistics = statistics_start(scalars, sequence, head, false) + place.row;
  float scores[1][N][4], slopes[1][N][4];
  multiply_rows<T, D>(scores, SwizzledTile<D>{own}, SwizzledTile<D>{keys}, steps);
  multiply_rows<T, D>(slopes, SwizzledTile<D>{own + Shape::kOwnBytes},
                      SwizzledTile<D>{keys + Shape::kTileBytes}, steps);
  differentiate<false, false>(scores, slopes, Head<T>(scalars.forward, sequence, inputs.bias, head),
                              place, 1.0f, place.column < all.begin || end > all.end,
                              RowStatistic<1>(inputs.log_sum_exps + statistics),
                              RowStatistic<1>(inputs.deltas + statistics));
  for_each_element<1, N>([&](int m, int n, int e) { sums[m][n][e] += slopes[m][n][e]; });
}

// Rounds and writes the warp's sums through `tile`, 16 rows that no other warp touches.
template <typename T, int N>
__device__ __forceinline__ void write_tile(const float (&sums)[1][N][4], SwizzledTile<64> tile,
                                           T* dbias, const Place<false>& place, int queries,
                                           int keys) {
  // A lane behind may still read the queries.
  __syncwarp();
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      store_shared(tile.chunk(fragment_row() + 8 * half, n) + 2 * fragment_column(),
                   pack(sums[0][n] + 2 * half, T()));
    }
  }
  // A lane writes to memory what others put into the tile.
  __syncwarp();
  for (int row = 0; row < min(16, queries - place.row); ++row) {
    T* const to = dbias + 1LL * (place.row + row) * keys + place.column;
    for (int column = threadIdx.x % 32; column < min(8 * N, keys - place.column); column += 32) {
      const unsigned short bits =
          load_shared_half(tile.chunk(row, column / 8) + column % 8 * 2);
      // Rows of a bias start anywhere: an element a lane, whole sectors a warp.
      reinterpret_cast<unsigned short*>(to)[column] = bits;
    }
  }
}

template <typename Shape, typename T>
__device__ __forceinline__ void bias_gradient(const BackwardScalars& scalars, const Block& block,
                                              const BackwardInputs<T>& inputs, T* dbias) {
  constexpr int D = Shape::D, N = Shape::KEYS / 8;
  extern __shared__ __align__(128) unsigned char memory[];
  const unsigned shared = shared_address(memory);
  const AttentionScalars& forward = scalars.forward;
  const int key_tiles = (forward.keys + Shape::KEYS - 1) / Shape::KEYS;
  const int first_query = block.tile / key_tiles * Shape::kQueries;
  const int first_key = block.tile % key_tiles * Shape::KEYS;
  const Place<false> place{first_query + static_cast<int>(threadIdx.x) / 32 * 16, first_key};
  const int batch_end = forward.bias_batch != 0 ? block.batch + 1 : forward.batch;
  const int head_end = forward.bias_head != 0 ? block.head + 1 : forward.heads;
  float sums[1][N][4] = {};
  for (int batch = forward.bias_batch != 0 ? block.batch : 0; batch < batch_end; ++batch) {
    const Sequence sequence = sequence_of(forward, inputs.limits, batch);
    const int last_query = min(first_query + Shape::kQueries, sequence.queries.count) - 1;
    const Range some = seen_by_any(forward, sequence, first_query, last_query);
    if (first_key >= some.end || first_key + Shape::KEYS <= some.begin) continue;
    for (int head = forward.bias_head != 0 ? block.head : 0; head < head_end; ++head) {
      // All are done with the last head.
      __syncthreads();
      fetch<Shape>(scalars, inputs, sequence, head, first_query, first_key, shared);
      // This head's copies are there for all.
      __syncthreads();
      add_head<Shape>(sums, scalars, inputs, sequence, head, place, shared);
    }
  }
  const unsigned own = shared + threadIdx.x / 32 * 16 * D * 2;
  dbias += block.batch * forward.bias_batch + block.head * forward.bias_head;
  write_tile<T>(sums, SwizzledTile<64>{own}, dbias, place, forward.queries, forward.keys);
}

#define BIAS_GRADIENT(SYMBOL, T, SHAPE)                                                          \
  extern "C" __global__ void __launch_bounds__(SHAPE::kThreads, 1)                               \
  SYMBOL(BACKWARD_PARAMETERS(T), T* dbias) {                                                     \
    bias_gradient<SHAPE>(scalars, this_block(blocks), BACKWARD_INPUTS(T), dbias);                \
  }

BIAS_GRADIENT(attention_backward_bias_d64_f16, __half, BiasBlock64)
BIAS_GRADIENT(attention_backward_bias_d64_bf16, __nv_bfloat16, BiasBlock64)
BIAS_GRADIENT(attention_backward_bias_d128_f16, __half, BiasBlock128)
BIAS_GRADIENT(attention_backward_bias_d128_bf16, __nv_bfloat16, BiasBlock128)
BIAS_GRADIENT(attention_backward_bias_d256_f16, __half, BiasBlock256)
BIAS_GRADIENT(attention_backward_bias_d256_bf16, __nv_bfloat16, BiasBlock256)
