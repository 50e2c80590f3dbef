// Gradients of attention in f32: of keys and values, of queries, and of the bias.
//
// Reads:   q [B, Nq, H, D], k, v [B, Nk, Hkv, D], dout like q, f32, strided; bias [B or 1, H or 1,
//          Nq, Nk] or null; log_sum_exps (natural), deltas: the statistics of backward_rows.cu;
//          limits
// Writes:  dk, dv like k; dq like q; dbias like bias
// Launch:  keys: <<<B * Hkv * tiles of R keys>>>; queries: <<<B * H * tiles of R queries>>>; bias:
//          <<<biases * tiles of R queries * tiles of C keys>>>; 256 threads, Tile::kBytes
// Order:   as that of the kernels for 16-bit elements: no sum crosses blocks, and each is in order
// Cost:    the products of backward_keys_sm80.cu, backward_queries_sm80.cu and
//          backward_bias_sm80.cu, in fused multiply-adds
// Source:  as there
// archs: sm_80

#include "attention/backward_f32.cuh"

// As many rows and columns as fit the shared memory of every GPU since sm_80, 99 KiB: 70, 91 and
// 84 KiB.
using FloatTile64 = FloatTile<64, 64, 32>;
using FloatTile128 = FloatTile<128, 64, 16>;
using FloatTile256 = FloatTile<256, 32, 8>;

using FloatInputs = BackwardInputs<float>;

// A query head, with the parts of the buffers that belong to it.
__device__ __forceinline__ FloatHead head_of(const BackwardScalars& scalars,
                                             const FloatInputs& inputs, const Sequence& sequence,
                                             int head) {
  const AttentionScalars& forward = scalars.forward;
  const long long bias = sequence.batch * forward.bias_batch + head * forward.bias_head;
  const bool packed = inputs.limits.offsets_q != nullptr;
  const long long statistics = statistics_start(scalars, sequence, head, packed);
  return {forward,
          sequence,
          inputs.bias == nullptr ? nullptr : inputs.bias + bias,
          inputs.log_sum_exps + statistics,
          inputs.deltas + statistics,
          sequence.batch * forward.heads + head};
}

// A block's shared memory.
template <typename Tile>
struct FloatMemory {
  float* own[2];       // [R, kPitch]: k and v, or q and dout
  float* streamed[2];  // [C, kPitch]: the other ones
  float* weights[2];   // [C, kWeightPitch]: of dv and dk, or of nothing and dq

  __device__ __forceinline__ explicit FloatMemory(float* memory) {
    own[0] = memory;
    own[1] = own[0] + Tile::kOwnFloats;
    streamed[0] = own[1] + Tile::kOwnFloats;
    streamed[1] = streamed[0] + Tile::kTileFloats;
    weights[0] = streamed[1] + Tile::kTileFloats;
    weights[1] = weights[0] + Tile::kWeightFloats;
  }
};

// Starts the copies of both tensors of queries (q and dout) or of keys (k and v) of a head, from
// token `first` on.
template <typename Tile>
__device__ __forceinline__ void copy_queries(float* const (&to)[2], const BackwardScalars& scalars,
                                             const FloatInputs& inputs, const Sequence& sequence,
                                             int head, int first, int rows) {
  const Strides& q = scalars.forward.q;
  const int present = sequence.queries.count - first, head_dim = scalars.forward.head_dim;
  copy_floats<Tile>(
      to[0], inputs.q + start_of(q, sequence.batch, sequence.queries, head) + first * q.token,
      q.token, rows, present, head_dim);
  const Strides& dout = scalars.dout;
  copy_floats<Tile>(to[1],
                    inputs.dout + start_of(dout, sequence.batch, sequence.queries, head) +
                        first * dout.token,
                    dout.token, rows, present, head_dim);
}
template <typename Tile>
__device__ __forceinline__ void copy_keys(float* const (&to)[2], const AttentionScalars& forward,
                                          const FloatInputs& inputs, const Sequence& sequence,
                                          int kv_head, int first, int rows) {
  const int present = sequence.visible - first;
  const long long k = start_of(forward.k, sequence.batch, sequence.keys, kv_head);
  const long long v = start_of(forward.v, sequence.batch, sequence.keys, kv_head);
  copy_floats<Tile>(to[0], inputs.k + k + first * forward.k.token, forward.k.token, rows, present,
                    forward.head_dim);
  copy_floats<Tile>(to[1], inputs.v + v + first * forward.v.token, forward.v.token, rows, present,
                    forward.head_dim);
}

// Weights of this thread's pairs: each(r, c, weights), row and column within the tile.
template <typename Tile, bool KEY_ROWS, bool RAW, typename Each>
__device__ __forceinline__ void weigh_tile(const FloatMemory<Tile>& memory, const FloatHead& head,
                                           int first_row, int first_column, const Each& each) {
  float scores[Tile::ROWS][Tile::COLUMNS], slopes[Tile::ROWS][Tile::COLUMNS];
  multiply_floats<Tile>(scores, memory.own[0], memory.streamed[0], head.scalars.head_dim);
  multiply_floats<Tile>(slopes, memory.own[1], memory.streamed[1], head.scalars.head_dim);
#pragma unroll
  for (int i = 0; i < Tile::ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::COLUMNS; ++j) {
      const int r = threadIdx.x / Tile::kColumnGroups + i * Tile::kRowGroups;
      const int c = threadIdx.x % Tile::kColumnGroups + j * Tile::kColumnGroups;
      const int query = KEY_ROWS ? first_column + c : first_row + r;
      const int key = KEY_ROWS ? first_row + r : first_column + c;
      each(i, j, r, c, weigh<RAW>(head, query, key, scores[i][j], slopes[i][j]));
    }
  }
}

template <typename Tile>
__device__ __forceinline__ void key_gradients(const BackwardScalars& scalars, const Block& block,
                                              const FloatInputs& inputs, float* dk, float* dv) {
  constexpr int R = Tile::R, C = Tile::C;
  extern __shared__ __align__(16) float shared[];
  const FloatMemory<Tile> memory(shared);
  const AttentionScalars& forward = scalars.forward;
  const int head_dim = forward.head_dim;
  const Sequence sequence = sequence_of(forward, inputs.limits, block.batch);
  if (block.tile == 0) {
    write_gaps(dk, scalars.dk, sequence, sequence.keys, block.head, head_dim);
    write_gaps(dv, scalars.dv, sequence, sequence.keys, block.head, head_dim);
  }
  const int first = block.tile * R;
  const int rows = sequence.keys.count - first;
  if (rows <= 0) return;
  copy_keys<Tile>(memory.own, forward, inputs, sequence, block.head, first, R);
  const Range seeing = seeing_any(forward, sequence, first, first + R - 1);
  // Some query and some key that is written do not see each other.
  const bool some_unseen = has_window(forward) || sequence.visible - first < min(rows, R);
  const int group = forward.heads / forward.kv_heads;
  float of_dk[Tile::SUM_ROWS][Tile::D / 64][4] = {}, of_dv[Tile::SUM_ROWS][Tile::D / 64][4] = {};
  for (int query_head = block.head * group; query_head < (block.head + 1) * group; ++query_head) {
    const FloatHead head = head_of(scalars, inputs, sequence, query_head);
    for (int query = seeing.begin / C * C; query < seeing.end; query += C) {
      // All are done with the last tile and its weights.
      __syncthreads();
      copy_queries<Tile>(memory.streamed, scalars, inputs, sequence, query_head, query, C);
      commit_copies();
      wait_for_copies<0>();
      // The copies are there for all.
      __syncthreads();
      weigh_tile<Tile, true, true>(
          memory, head, first, query, [&](int, int, int r, int c, const Weights& weights) {
            memory.weights[0][c * Tile::kWeightPitch + r] = weights.probability;
            memory.weights[1][c * Tile::kWeightPitch + r] = weights.slope;
          });
      // The weights are there for all.
      __syncthreads();
      if (some_unseen) {
        accumulate_floats<Tile, true>(of_dv, memory.weights[0], memory.streamed[1], head_dim);
        accumulate_floats<Tile, true>(of_dk, memory.weights[1], memory.streamed[0], head_dim);
      } else {
        accumulate_floats<Tile, false>(of_dv, memory.weights[0], memory.streamed[1], head_dim);
        accumulate_floats<Tile, false>(of_dk, memory.weights[1], memory.streamed[0], head_dim);
      }
    }
  }
  dk += start_of(scalars.dk, sequence.batch, sequence.keys, block.head) + first * scalars.dk.token;
  dv += start_of(scalars.dv, sequence.batch, sequence.keys, block.head) + first * scalars.dv.token;
  write_floats<Tile>(of_dk, dk, scalars.dk.token, rows, head_dim);
  write_floats<Tile>(of_dv, dv, scalars.dv.token, rows, head_dim);
}

template <typename Tile>
__device__ __forceinline__ void query_gradients(const BackwardScalars& scalars, const Block& block,
                                                const FloatInputs& inputs, float* dq) {
  constexpr int R = Tile::R, C = Tile::C;
  extern __shared__ __align__(16) float shared[];
  const FloatMemory<Tile> memory(shared);
  const AttentionScalars& forward = scalars.forward;
  const int head_dim = forward.head_dim;
  const Sequence sequence = sequence_of(forward, inputs.limits, block.batch);
  if (block.tile == 0) {
    write_gaps(dq, scalars.dq, sequence, sequence.queries, block.head, head_dim);
  }
  const int first = block.tile * R;
  const int rows = sequence.queries.count - first;
  if (rows <= 0) return;
  copy_queries<Tile>(memory.own, scalars, inputs, sequence, block.head, first, R);
  const FloatHead head = head_of(scalars, inputs, sequence, block.head);
  const Range seen = seen_by_any(forward, sequence, first, first + min(rows, R) - 1);
  const int kv_head = divide(block.head, forward.by_group);
  float of_dq[Tile::SUM_ROWS][Tile::D / 64][4] = {};
  for (int key = seen.begin / C * C; key < seen.end; key += C) {
    // All are done with the last tile and its weights.
    __syncthreads();
    copy_keys<Tile>(memory.streamed, forward, inputs, sequence, kv_head, key, C);
    commit_copies();
    wait_for_copies<0>();
    // The copies are there for all.
    __syncthreads();
    weigh_tile<Tile, false, true>(memory, head, first, key,
                                  [&](int, int, int r, int c, const Weights& weights) {
                                    memory.weights[1][c * Tile::kWeightPitch + r] = weights.slope;
                                  });
    // The weights are there for all.
    __syncthreads();
    if (has_window(forward)) {
      accumulate_floats<Tile, true>(of_dq, memory.weights[1], memory.streamed[0], head_dim);
    } else {
      accumulate_floats<Tile, false>(of_dq, memory.weights[1], memory.streamed[0], head_dim);
    }
  }
  // A block without a tile ends with its own copies done.
  wait_for_copies<0>();
  dq += start_of(scalars.dq, sequence.batch, sequence.queries, block.head) +
        first * scalars.dq.token;
  write_floats<Tile>(of_dq, dq, scalars.dq.token, rows, head_dim);
}

template <typename Tile>
__device__ __forceinline__ void bias_gradient(const BackwardScalars& scalars, const Block& block,
                                              const FloatInputs& inputs, float* dbias) {
  constexpr int R = Tile::R, C = Tile::C;
  extern __shared__ __align__(16) float shared[];
  const FloatMemory<Tile> memory(shared);
  const AttentionScalars& forward = scalars.forward;
  const int key_tiles = (forward.keys + C - 1) / C;
  const int first = block.tile / key_tiles * R, first_key = block.tile % key_tiles * C;
  const int batch_end = forward.bias_batch != 0 ? block.batch + 1 : forward.batch;
  const int head_end = forward.bias_head != 0 ? block.head + 1 : forward.heads;
  float sums[Tile::ROWS][Tile::COLUMNS] = {};
  for (int batch = forward.bias_batch != 0 ? block.batch : 0; batch < batch_end; ++batch) {
    const Sequence sequence = sequence_of(forward, inputs.limits, batch);
    for (int head = forward.bias_head != 0 ? block.head : 0; head < head_end; ++head) {
      // All are done with the last head.
      __syncthreads();
      copy_queries<Tile>(memory.own, scalars, inputs, sequence, head, first, R);
      copy_keys<Tile>(memory.streamed, forward, inputs, sequence, divide(head, forward.by_group),
                      first_key, C);
      commit_copies();
      wait_for_copies<0>();
      // The copies are there for all.
      __syncthreads();
      weigh_tile<Tile, false, false>(
          memory, head_of(scalars, inputs, sequence, head), first, first_key,
          [&](int i, int j, int, int, const Weights& weights) { sums[i][j] += weights.slope; });
    }
  }
  dbias += block.batch * forward.bias_batch + block.head * forward.bias_head;
#pragma unroll
  for (int i = 0; i < Tile::ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::COLUMNS; ++j) {
      const int query = first + threadIdx.x / Tile::kColumnGroups + i * Tile::kRowGroups;
      const int key = first_key + threadIdx.x % Tile::kColumnGroups + j * Tile::kColumnGroups;
      if (query < forward.queries && key < forward.keys) {
        dbias[1LL * query * forward.keys + key] = sums[i][j];
      }
    }
  }
}

#define FLOAT_KERNEL(SYMBOL, GRADIENT, TILE, BLOCK, OUTPUTS, ...)                                \
  extern "C" __global__ void __launch_bounds__(kThreads, 1)                                      \
  SYMBOL(BACKWARD_PARAMETERS(float), __VA_ARGS__) {                                              \
    GRADIENT<TILE>(scalars, BLOCK(blocks), BACKWARD_INPUTS(float), OUTPUTS);                     \
  }
#define DK_DV dk, dv

FLOAT_KERNEL(attention_backward_keys_d64_f32, key_gradients, FloatTile64, first_block_first,
             DK_DV, float* dk, float* dv)
FLOAT_KERNEL(attention_backward_keys_d128_f32, key_gradients, FloatTile128, first_block_first,
             DK_DV, float* dk, float* dv)
FLOAT_KERNEL(attention_backward_keys_d256_f32, key_gradients, FloatTile256, first_block_first,
             DK_DV, float* dk, float* dv)
FLOAT_KERNEL(attention_backward_queries_d64_f32, query_gradients, FloatTile64, this_block, dq,
             float* dq)
FLOAT_KERNEL(attention_backward_queries_d128_f32, query_gradients, FloatTile128, this_block, dq,
             float* dq)
FLOAT_KERNEL(attention_backward_queries_d256_f32, query_gradients, FloatTile256, this_block, dq,
             float* dq)
FLOAT_KERNEL(attention_backward_bias_d64_f32, bias_gradient, FloatTile64, this_block, dbias,
             float* dbias)
FLOAT_KERNEL(attention_backward_bias_d128_f32, bias_gradient, FloatTile128, this_block, dbias,
             float* dbias)
FLOAT_KERNEL(attention_backward_bias_d256_f32, bias_gradient, FloatTile256, this_block, dbias,
             float* dbias)
