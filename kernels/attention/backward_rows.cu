// What the attention backward needs to know of each query, from one pass over its output.
//
// Reads:   out, dout [B, Nq, H, D] T, strided; lse [B, H, Nq] or packed [H, Tq] f32; dlse like lse
//          or null; offsets_q
// Writes:  log_sum_exps, deltas f32, per head in groups of kStatisticsGroup queries
//          (backward_scalars.cuh): lse, in base 2 for 16-bit elements, NaN where it is +infinity, and
//          sum(dout * out) - dlse; infinity and 0 for a query that sees nothing and for the places
//          behind the last query, so that each probability of theirs is exp(s - infinity) = 0
// Launch:  <<<B * H * groups, 128>>>
// Order:   8 lanes sum a query's elements, each its own in order, then in a fixed tree
// Cost:    out and dout read once, 2 operations an element
// Source:  Dao, "FlashAttention-2", 2023, section 3.1
// archs: sm_80

#include "attention/backward_scalars.cuh"
#include "attention/softmax.cuh"
#include "common/vec.cuh"

constexpr int kThreads = 128;
constexpr int kLanes = 8;  // of a query: 8 chunks of 16 bytes are the 128 bytes of D = 64

template <typename T>
__device__ __forceinline__ float dot(const T* a, const T* b, int head_dim) {
  float sum = 0.0f;
  for (int first = threadIdx.x % kLanes * kVector<T>; first < head_dim;
       first += kLanes * kVector<T>) {
    float left[kVector<T>], right[kVector<T>];
    load_vector(a + first, left);
    load_vector(b + first, right);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) sum = fmaf(left[i], right[i], sum);
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, distance);
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ void statistics_of(const BackwardScalars& scalars, const Block& block,
                                              const T* out, const T* dout, const float* lse,
                                              const float* dlse, const int* offsets_q,
                                              float* log_sum_exps, float* deltas) {
  const AttentionScalars& forward = scalars.forward;
  // The keys do not matter here.
  const Limits limits{nullptr, offsets_q, offsets_q};
  const Sequence sequence = sequence_of(forward, limits, block.batch);
  const int first = block.tile * kStatisticsGroup;
  const int count = sequence.queries.count;
  if (first >= count) return;
  const bool packed = offsets_q != nullptr;
  out += start_of(forward.out, sequence.batch, sequence.queries, block.head);
  dout += start_of(scalars.dout, sequence.batch, sequence.queries, block.head);
  const long long row = lse_start(forward, sequence, block.head, packed);
  const long long to = statistics_start(scalars, sequence, block.head, packed);
  for (int query = first + threadIdx.x / kLanes; query < first + kStatisticsGroup;
       query += kThreads / kLanes) {
    const int present = min(query, count - 1);
    const float sum = dot(out + present * forward.out.token, dout + present * scalars.dout.token,
                          forward.head_dim);
    if (threadIdx.x % kLanes != 0) continue;
    const float log_sum = query < count ? lse[row + query] : -kInfinity;
    const bool seeing = log_sum != -kInfinity;
    const float upstream = seeing && dlse != nullptr ? dlse[row + query] : 0.0f;
    // An infinite sum came of an infinite score, whose row is NaN.
    const float unit = sizeof(T) == 2 ? kLog2E : 1.0f;
    const float of_seeing = log_sum == kInfinity ? __int_as_float(0x7fffffff) : log_sum * unit;
    log_sum_exps[to + query] = seeing ? of_seeing : kInfinity;
    deltas[to + query] = seeing ? sum - upstream : 0.0f;
  }
}

#define STATISTICS(SYMBOL, T)                                                                     \
  extern "C" __global__ void __launch_bounds__(kThreads)                                          \
  SYMBOL(const __grid_constant__ BackwardScalars scalars, Blocks blocks, const T* out,            \
         const T* dout, const float* lse, const float* dlse, const int* offsets_q,                \
         float* log_sum_exps, float* deltas) {                                                    \
    statistics_of(scalars, this_block(blocks), out, dout, lse, dlse, offsets_q, log_sum_exps,     \
                  deltas);                                                                        \
  }

STATISTICS(attention_backward_rows_f32, float)
STATISTICS(attention_backward_rows_f16, __half)
STATISTICS(attention_backward_rows_bf16, __nv_bfloat16)
