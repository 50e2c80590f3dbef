// Attention probabilities of chosen queries: what the fused kernels never store.
//
// Reads:   rows [R] i32, places of queries within each sequence; q [B, Nq, H, D], k [B, Nk, Hkv, D] T,
//          strided; bias or null; kv_lengths, offsets or null
// Writes:  probabilities [B, H, R, Nk] f32, before dropout; zeros for keys that the query does not see and
//          for a place that is no query
// Launch:  <<<B * H * R, 128>>>
// Order:   8 lanes sum a score, each its own elements in order; the sum of a row is in f64 in a fixed tree
// Cost:    D elements of a key are read once a row, each probability is written twice and read once
// Source:  Vaswani et al., "Attention Is All You Need", 2017, equation 1, in three passes
// archs: sm_80

#include "attention/sequence.cuh"
#include "attention/softmax.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 128;
constexpr int kLanes = 8;  // of a key: 8 chunks of 16 bytes are the 128 bytes of D = 64 in 16 bits

// q . k; the lane of a key whose number is 0 holds it.
template <typename T>
__device__ __forceinline__ float dot(const T* q, const T* k, int head_dim) {
  float sum = 0.0f;
  for (int first = threadIdx.x % kLanes * kVector<T>; first < head_dim;
       first += kLanes * kVector<T>) {
    float left[kVector<T>], right[kVector<T>];
    load_vector(q + first, left);
    load_vector(k + first, right);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) sum = fmaf(left[i], right[i], sum);
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, distance);
  }
  return sum;
}

// Largest of the block's values, NaN left out. All threads take part, once a kernel, and get it.
__device__ __forceinline__ float block_max(float value) {
  __shared__ float of_warp[kThreads / 32];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, distance));
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  // All read what each warp wrote.
  __syncthreads();
  for (int warp = 0; warp < kThreads / 32; ++warp) value = fmaxf(value, of_warp[warp]);
  return value;
}

// Puts the scores of the keys [seen.begin, seen.end) to `to` and gives the largest that this thread met.
template <typename T>
__device__ __forceinline__ float scores_of(const AttentionScalars& scalars, const T* q, const T* k,
                                           const T* bias, const Range& seen, float* to) {
  float largest = -kInfinity;
  constexpr int kKeys = kThreads / kLanes;
  // Every lane takes part in the sums of its warp: behind the last key it repeats that one.
  for (int first = seen.begin; first < seen.end; first += kKeys) {
    const int key = min(first + static_cast<int>(threadIdx.x) / kLanes, seen.end - 1);
    float score = scalars.scale * dot(q, k + key * scalars.k.token, scalars.head_dim);
    if (scalars.softcap > 0.0f) score = scalars.softcap * tanhf(score / scalars.softcap);
    if (bias != nullptr) score += to_float(bias[key]);
    largest = fmaxf(largest, score);
    const bool own = first + static_cast<int>(threadIdx.x) / kLanes < seen.end;
    if (own && threadIdx.x % kLanes == 0) to[key] = score;
  }
  return largest;
}

template <typename T>
__device__ __forceinline__ void probabilities_of(const AttentionScalars& scalars,
                                                 const Block& block, const Limits& limits,
                                                 const int* rows, const T* q, const T* k,
                                                 const T* bias, int places, float* to) {
  __shared__ float reciprocal_sum;
  const Sequence sequence = sequence_of(scalars, limits, block.batch);
  const int query = rows[block.tile];
  to += ((1LL * block.batch * scalars.heads + block.head) * places + block.tile) * scalars.keys;
  Range seen{0, 0};
  if (query >= 0 && query < sequence.queries.count) seen = seen_by(scalars, sequence, query);
  for (int key = threadIdx.x; key < scalars.keys; key += kThreads) {
    if (!contains(seen, key)) to[key] = 0.0f;
  }
  if (seen.begin >= seen.end) return;
  q += start_of(scalars.q, sequence.batch, sequence.queries, block.head) +
       query * scalars.q.token;
  k += start_of(scalars.k, sequence.batch, sequence.keys, divide(block.head, scalars.by_group));
  if (bias != nullptr) {
    bias += sequence.batch * scalars.bias_batch + block.head * scalars.bias_head +
            1LL * query * scalars.keys;
  }
  const float peak = finite_peak(block_max(scores_of(scalars, q, k, bias, seen, to)));
  // The barrier in block_max has also put every score in its place.
  double sum = 0.0;
  for (int key = seen.begin + threadIdx.x; key < seen.end; key += kThreads) {
    const float weight = expf(to[key] - peak);
    to[key] = weight;
    sum += weight;
  }
  sum = block_sum<kThreads>(sum);
  // Scores of -infinity alone leave a sum of 0.
  if (threadIdx.x == 0) reciprocal_sum = sum == 0.0 ? 0.0f : static_cast<float>(1.0 / sum);
  // All read what thread 0 wrote.
  __syncthreads();
  for (int key = seen.begin + threadIdx.x; key < seen.end; key += kThreads) {
    to[key] *= reciprocal_sum;
  }
}

#define PROBABILITIES(SYMBOL, T)                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads)                                          \
  SYMBOL(const __grid_constant__ AttentionScalars scalars, Blocks blocks, const int* kv_lengths,  \
         const int* offsets_q, const int* offsets_k, const int* rows, const T* q, const T* k,     \
         const T* bias, float* probabilities) {                                                   \
    probabilities_of(scalars, this_block(blocks), {kv_lengths, offsets_q, offsets_k}, rows, q, k, \
                     bias, blocks.tiles, probabilities);                                          \
  }

PROBABILITIES(attention_probabilities_f32, float)
PROBABILITIES(attention_probabilities_f16, __half)
PROBABILITIES(attention_probabilities_bf16, __nv_bfloat16)
