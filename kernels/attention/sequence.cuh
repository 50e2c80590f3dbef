// Which tokens a sequence has, and which keys a query sees.
#pragma once

#include "attention/scalars.cuh"
#include "common/reduce.cuh"

// Device buffers that limit what is seen; each may be null.
struct Limits {
  const int* kv_lengths;  // [B], clamped to the keys there are
  const int* offsets_q;   // [B + 1], both or neither: sequences are packed
  const int* offsets_k;
};

// Tokens [first, first + count) of a tensor, then those up to `end` that no sequence has. The
// tokens before the first sequence are no sequence's, either.
struct Tokens {
  int first;
  int count;
  int end;
};

// Tokens of packed sequence `batch`. An offset stands for the largest up to its place, within
// [0, total], so that sequences ascend and none leaves the buffer whatever the offsets are. All
// lanes of a warp take part and hold the result.
__device__ __forceinline__ Tokens packed_tokens(const int* offsets, int batch, int sequences,
                                                int total, int longest) {
  if (sequences == 0) return {0, 0, total};
  int largest = 0;
  for (int i = threadIdx.x % 32; i <= batch; i += 32) largest = max(largest, offsets[i]);
  largest = __reduce_max_sync(kFullWarp, largest);
  const int first = min(largest, total);
  const int end = min(max(largest, offsets[batch + 1]), total);
  return {first, min(end - first, longest), batch == sequences - 1 ? total : end};
}

// One sequence. Queries and keys are counted within it.
struct Sequence {
  int batch;
  Tokens queries;
  Tokens keys;
  int visible;  // keys below the sequence's length
  int shift;    // query i stands at key i + shift: the last query at the last key
};

// All lanes of a warp take part and hold the result.
__device__ __forceinline__ Sequence sequence_of(const AttentionScalars& scalars,
                                                const Limits& limits, int batch) {
  Sequence sequence;
  sequence.batch = batch;
  sequence.queries = {0, scalars.queries, scalars.queries};
  sequence.keys = {0, scalars.keys, scalars.keys};
  if (limits.offsets_q != nullptr) {
    sequence.queries = packed_tokens(limits.offsets_q, batch, scalars.batch,
                                     scalars.total_queries, scalars.queries);
    sequence.keys = packed_tokens(limits.offsets_k, batch, scalars.batch, scalars.total_keys,
                                  scalars.keys);
  }
  sequence.visible = sequence.keys.count;
  if (limits.kv_lengths != nullptr && scalars.batch > 0) {
    sequence.visible = min(max(limits.kv_lengths[batch], 0), sequence.visible);
  }
  sequence.shift = sequence.keys.count - sequence.queries.count;
  return sequence;
}

// Where the tokens' vectors of a head start.
__device__ __forceinline__ long long start_of(const Strides& strides, int batch,
                                              const Tokens& tokens, int head) {
  return batch * strides.batch + tokens.first * strides.token + head * strides.head;
}

// Where the log-sum-exps of a head's queries start: [B, H, Nq], or packed [H, Tq].
__device__ __forceinline__ long long lse_start(const AttentionScalars& scalars,
                                               const Sequence& sequence, int head, bool packed) {
  if (packed) return 1LL * head * scalars.total_queries + sequence.queries.first;
  return (1LL * sequence.batch * scalars.heads + head) * scalars.queries;
}

// Keys or queries [begin, end); empty where end <= begin.
struct Range {
  int begin;
  int end;
};

// Keys that query `query` sees.
__device__ __forceinline__ Range seen_by(const AttentionScalars& scalars, const Sequence& sequence,
                                         int query) {
  const int place = query + sequence.shift;
  return {max(place - scalars.window_left, 0),
          min(place + scalars.window_right + 1, sequence.visible)};
}

// Keys that some of the queries [first, last] see, and between them such as none does.
__device__ __forceinline__ Range seen_by_any(const AttentionScalars& scalars,
                                             const Sequence& sequence, int first, int last) {
  return {seen_by(scalars, sequence, first).begin, seen_by(scalars, sequence, last).end};
}

// Keys that each of the queries [first, last] sees.
__device__ __forceinline__ Range seen_by_all(const AttentionScalars& scalars,
                                             const Sequence& sequence, int first, int last) {
  return {seen_by(scalars, sequence, last).begin, seen_by(scalars, sequence, first).end};
}

// Queries that see some of the keys [first, last], and between them such as see none.
__device__ __forceinline__ Range seeing_any(const AttentionScalars& scalars,
                                            const Sequence& sequence, int first, int last) {
  if (first >= sequence.visible) return {0, 0};
  last = min(last, sequence.visible - 1);
  return {max(first - scalars.window_right - sequence.shift, 0),
          min(last + scalars.window_left - sequence.shift + 1, sequence.queries.count)};
}

__device__ __forceinline__ bool contains(const Range& range, int place) {
  return place >= range.begin && place < range.end;
}

// Whether some query may not see a key that exists. Keys that nobody may see are loaded as zeros,
// so only then can a NaN among keys or values meet a probability of 0.
__device__ __forceinline__ bool has_window(const AttentionScalars& scalars) {
  constexpr int kNoWindow = 1 << 29;
  return scalars.window_left < kNoWindow || scalars.window_right < kNoWindow;
}
